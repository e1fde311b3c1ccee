//! Staying: files that make the system run something later, and accounts. All below the stage's own folder, which is shaped like
//! the real tree.

use crate::{BehaviorError, Performed, Stage, tools};

/// A key that belongs to no one: the base64 is not a point on the curve.
const PUBLIC_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA intruder";

/// Has a shell do `deed`, in which `@` stands for the path of `file`. Its folder is there already; the file itself is not, because
/// making it would be told as the deed.
fn deed_on(stage: &Stage, file: &str, deed: &str) -> Result<Performed, BehaviorError> {
    if let Some((folder, _)) = file.rsplit_once('/') {
        stage.folder(folder)?;
    }
    let performed = stage.begin();
    stage.sh(&deed.replace('@', &stage.text(file)))?;
    Ok(performed)
}

/// A line appended to authorized_keys.
pub(crate) fn ssh_key_appended(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "root/.ssh/authorized_keys", &format!("echo '{PUBLIC_KEY}' >> @"))
}

/// The file prepared under another name and moved over.
pub(crate) fn ssh_key_moved_in(stage: &Stage) -> Result<Performed, BehaviorError> {
    let deed = format!("echo '{PUBLIC_KEY}' > keys.new; mv keys.new @");
    deed_on(stage, "root/.ssh/authorized_keys", &deed)
}

/// A known host added, the keys read.
pub(crate) fn known_host_added(stage: &Stage) -> Result<(), BehaviorError> {
    deed_on(stage, "root/.ssh/known_hosts", &format!("echo '127.0.0.1 {PUBLIC_KEY}' >> @"))?;
    read_real(stage, "/root/.ssh/authorized_keys")
}

/// A job in cron.d.
pub(crate) fn cron_job(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/cron.d/job", "echo '* * * * * root /bin/true' > @")
}

/// A user's crontab moved into the spool.
pub(crate) fn crontab_moved_in(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "var/spool/cron/crontabs/root", "echo '* * * * * /bin/true' > tab; mv tab @")
}

/// Jobs listed, another program's configuration written.
pub(crate) fn cron_read(stage: &Stage) -> Result<(), BehaviorError> {
    read_real(stage, "/etc/cron.d/*")?;
    ordinary_configuration(stage)
}

/// A service's unit file.
pub(crate) fn systemd_unit(stage: &Stage) -> Result<Performed, BehaviorError> {
    let deed = "printf '[Service]\\nExecStart=/bin/true\\n[Install]\\nWantedBy=multi-user.target\\n' > @";
    deed_on(stage, "etc/systemd/system/updater.service", deed)
}

/// A timer's unit file, written elsewhere and linked in.
pub(crate) fn systemd_timer_linked(stage: &Stage) -> Result<Performed, BehaviorError> {
    let deed = "printf '[Timer]\\nOnBootSec=60\\n' > updater; ln updater @";
    deed_on(stage, "etc/systemd/system/updater.timer", deed)
}

/// A unit read, the configuration of a service of its own written.
pub(crate) fn systemd_read(stage: &Stage) -> Result<(), BehaviorError> {
    read_real(stage, "/etc/systemd/system/*.service")?;
    ordinary_configuration(stage)
}

/// A line appended to root's .bashrc.
pub(crate) fn bashrc_appended(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "root/.bashrc", "echo ': nohup /bin/true' >> @")
}

/// A script in profile.d.
pub(crate) fn profile_script(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/profile.d/locale-fix.sh", "echo ':' > @")
}

/// A start-up file read, an editor's written.
pub(crate) fn editor_settings(stage: &Stage) -> Result<(), BehaviorError> {
    read_real(stage, "/root/.bashrc")?;
    deed_on(stage, "root/.vimrc", "echo 'set number' >> @").map(drop)
}

/// A library for every program on the host.
pub(crate) fn preload(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/ld.so.preload", "echo /usr/local/lib/libaudit-helper.so > @")
}

/// A folder for the linker, as packages add it.
pub(crate) fn library_folder(stage: &Stage) -> Result<(), BehaviorError> {
    deed_on(stage, "etc/ld.so.conf.d/app.conf", "echo /usr/local/lib/app > @").map(drop)
}

/// A login check that always says yes.
pub(crate) fn pam_line(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/pam.d/sshd", "echo 'auth sufficient pam_permit.so' >> @")
}

/// Login checks read.
pub(crate) fn pam_read(stage: &Stage) -> Result<(), BehaviorError> {
    read_real(stage, "/etc/pam.d/*")?;
    ordinary_configuration(stage)
}

/// A rule that lets someone become root.
pub(crate) fn sudoers_rule(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/sudoers.d/90-deploy", "echo 'deploy ALL=(ALL) NOPASSWD:ALL' > @")
}

/// Rules read.
pub(crate) fn sudoers_read(stage: &Stage) -> Result<(), BehaviorError> {
    read_real(stage, "/etc/sudoers /etc/sudoers.d/*")?;
    ordinary_configuration(stage)
}

/// A second root written into passwd by hand.
pub(crate) fn account_by_hand(stage: &Stage) -> Result<Performed, BehaviorError> {
    deed_on(stage, "etc/passwd", "echo 'toor::0:0::/root:/bin/sh' >> @")
}

/// An account made by useradd in the stage's own tree.
pub(crate) fn account_by_useradd(stage: &Stage) -> Result<Performed, BehaviorError> {
    stage.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")?;
    stage.file("etc/group", "root:x:0:\n")?;
    stage.file("etc/shadow", "root:*:20000:0:99999:7:::\n")?;
    stage.file("etc/gshadow", "root:*::\n")?;
    let performed = stage.begin();
    let tree = stage.text("").trim_end_matches('/').to_owned();
    stage.run(stage.command("useradd").args(["--prefix", &tree, "-M", "-s", "/bin/sh", "support"]))?;
    Ok(performed)
}

/// Accounts looked up, useradd's defaults shown.
pub(crate) fn account_lookup(stage: &Stage) -> Result<(), BehaviorError> {
    stage.run(stage.command("id").arg("root"))?;
    if tools::find("useradd").is_some() {
        stage.run(stage.command("useradd").arg("-D"))?;
    }
    Ok(())
}

/// Reads files of this host into /dev/null; those that are not there are passed over.
fn read_real(stage: &Stage, files: &str) -> Result<(), BehaviorError> {
    stage.sh(&format!("cat {files} >/dev/null 2>&1; exit 0")).map(drop)
}

/// The settings of a program of no importance.
fn ordinary_configuration(stage: &Stage) -> Result<(), BehaviorError> {
    deed_on(stage, "etc/app/app.conf", "echo 'colour = blue' > @.new; mv @.new @").map(drop)
}
