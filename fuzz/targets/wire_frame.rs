//! Frames on the socket between agent and server.

#![no_main]

use libfuzzer_sys::fuzz_target;
use watchfire_wire::{
    MAX_FRAME, batch_in_frame, decode_agent_frame, read_frame, read_raw_frame, v1, write_raw_frame,
};

fuzz_target!(|bytes: &[u8]| {
    let mut stream = bytes;
    while let Ok(Some(frame)) = read_raw_frame(&mut stream) {
        assert!(frame.len() <= MAX_FRAME);
        let decoded = decode_agent_frame(&frame);
        if decoded.is_ok() {
            // The short cut must find what the decoder finds.
            let _: Option<&[u8]> = batch_in_frame(&frame);
        }
        let mut written = Vec::new();
        write_raw_frame(&mut written, &frame).expect("a frame that was read can be written");
        assert_eq!(read_raw_frame(&mut written.as_slice()).expect("reads back"), Some(frame));
    }
    let mut stream = bytes;
    while let Ok(Some(_)) = read_frame::<v1::ServerFrame>(&mut stream) {}
});
