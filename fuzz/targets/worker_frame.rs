//! Frames on the socket between a worker or plug-in and its master, in both directions.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_event::Report;
use watchfire_wire::worker::{MasterFrame, WorkerFrame, worker_frame};
use watchfire_wire::{read_frame, read_frame_within};

/// What the master lets a plug-in send.
const LIMIT: usize = 1 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    while let Ok(Some(frame)) = read_frame_within::<WorkerFrame>(&mut stream, LIMIT) {
        let Some(worker_frame::Body::Reports(reports)) = frame.body else { continue };
        for report in reports.reports {
            let fields = report.fields.into_iter().map(|field| (field.name, field.value));
            if let Ok(report) = Report::new("plug-in", report.topic, fields) {
                assert!(report.text_bytes() <= bytes.len() + "plug-in".len());
                assert!(!report.to_string().contains(char::is_control), "shown as it came: {report}");
            }
        }
    }
    let mut stream = bytes;
    while let Ok(Some(_)) = read_frame::<MasterFrame>(&mut stream) {}
});
