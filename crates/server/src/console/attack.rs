//! Names of MITRE ATT&CK (Enterprise) techniques and tactics, for the ids that rules for Linux hosts use.
//! © The MITRE Corporation; used under the ATT&CK terms of use.

/// What a technique id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Technique {
    /// Its name, the parent technique's first.
    pub(super) name: &'static str,
    /// The tactics it serves.
    pub(super) tactics: &'static str,
}

/// The technique behind an id such as `T1059.004`; a sub-technique that is not listed is shown by its parent.
pub(super) fn technique(id: &str) -> Option<Technique> {
    let parent = id.split('.').next().unwrap_or(id);
    let find = |wanted: &str| TECHNIQUES.iter().find(|(id, ..)| *id == wanted);
    let (_, name, tactics) = find(id).or_else(|| find(parent))?;
    Some(Technique { name, tactics })
}

const EXECUTION: &str = "Execution";
const PERSISTENCE: &str = "Persistence";
const ESCALATION: &str = "Privilege Escalation";
const EVASION: &str = "Defense Evasion";
const ACCESS: &str = "Credential Access";
const DISCOVERY: &str = "Discovery";
const LATERAL: &str = "Lateral Movement";
const COMMAND: &str = "Command and Control";
const IMPACT: &str = "Impact";
const INITIAL: &str = "Initial Access";
const COLLECTION: &str = "Collection";
const EXFILTRATION: &str = "Exfiltration";

const TECHNIQUES: &[(&str, &str, &str)] = &[
    ("T1003", "OS Credential Dumping", ACCESS),
    ("T1003.007", "OS Credential Dumping: Proc Filesystem", ACCESS),
    ("T1003.008", "OS Credential Dumping: /etc/passwd and /etc/shadow", ACCESS),
    ("T1005", "Data from Local System", COLLECTION),
    ("T1014", "Rootkit", EVASION),
    ("T1016", "System Network Configuration Discovery", DISCOVERY),
    ("T1018", "Remote System Discovery", DISCOVERY),
    ("T1021", "Remote Services", LATERAL),
    ("T1021.004", "Remote Services: SSH", LATERAL),
    ("T1027", "Obfuscated Files or Information", EVASION),
    ("T1033", "System Owner/User Discovery", DISCOVERY),
    ("T1036", "Masquerading", EVASION),
    ("T1036.005", "Masquerading: Match Legitimate Resource Name or Location", EVASION),
    ("T1040", "Network Sniffing", "Credential Access, Discovery"),
    ("T1041", "Exfiltration Over C2 Channel", EXFILTRATION),
    ("T1046", "Network Service Discovery", DISCOVERY),
    ("T1048", "Exfiltration Over Alternative Protocol", EXFILTRATION),
    ("T1049", "System Network Connections Discovery", DISCOVERY),
    ("T1053", "Scheduled Task/Job", "Execution, Persistence, Privilege Escalation"),
    ("T1053.002", "Scheduled Task/Job: At", "Execution, Persistence, Privilege Escalation"),
    ("T1053.003", "Scheduled Task/Job: Cron", "Execution, Persistence, Privilege Escalation"),
    ("T1053.006", "Scheduled Task/Job: Systemd Timers", "Execution, Persistence, Privilege Escalation"),
    ("T1055", "Process Injection", "Defense Evasion, Privilege Escalation"),
    ("T1055.008", "Process Injection: Ptrace System Calls", "Defense Evasion, Privilege Escalation"),
    ("T1055.009", "Process Injection: Proc Memory", "Defense Evasion, Privilege Escalation"),
    ("T1057", "Process Discovery", DISCOVERY),
    ("T1059", "Command and Scripting Interpreter", EXECUTION),
    ("T1059.004", "Command and Scripting Interpreter: Unix Shell", EXECUTION),
    ("T1059.006", "Command and Scripting Interpreter: Python", EXECUTION),
    ("T1068", "Exploitation for Privilege Escalation", ESCALATION),
    ("T1070", "Indicator Removal", EVASION),
    ("T1070.002", "Indicator Removal: Clear Linux or Mac System Logs", EVASION),
    ("T1070.003", "Indicator Removal: Clear Command History", EVASION),
    ("T1070.004", "Indicator Removal: File Deletion", EVASION),
    ("T1070.006", "Indicator Removal: Timestomp", EVASION),
    ("T1071", "Application Layer Protocol", COMMAND),
    ("T1071.001", "Application Layer Protocol: Web Protocols", COMMAND),
    ("T1071.004", "Application Layer Protocol: DNS", COMMAND),
    ("T1078", "Valid Accounts", "Initial Access, Persistence, Privilege Escalation, Defense Evasion"),
    ("T1082", "System Information Discovery", DISCOVERY),
    ("T1083", "File and Directory Discovery", DISCOVERY),
    ("T1087", "Account Discovery", DISCOVERY),
    ("T1090", "Proxy", COMMAND),
    ("T1095", "Non-Application Layer Protocol", COMMAND),
    ("T1098", "Account Manipulation", "Persistence, Privilege Escalation"),
    ("T1098.004", "Account Manipulation: SSH Authorized Keys", "Persistence, Privilege Escalation"),
    ("T1105", "Ingress Tool Transfer", COMMAND),
    ("T1110", "Brute Force", ACCESS),
    ("T1110.001", "Brute Force: Password Guessing", ACCESS),
    ("T1110.003", "Brute Force: Password Spraying", ACCESS),
    ("T1129", "Shared Modules", EXECUTION),
    ("T1133", "External Remote Services", "Initial Access, Persistence"),
    ("T1136", "Create Account", PERSISTENCE),
    ("T1136.001", "Create Account: Local Account", PERSISTENCE),
    ("T1140", "Deobfuscate/Decode Files or Information", EVASION),
    ("T1190", "Exploit Public-Facing Application", INITIAL),
    ("T1203", "Exploitation for Client Execution", EXECUTION),
    ("T1204", "User Execution", EXECUTION),
    ("T1205", "Traffic Signaling", "Defense Evasion, Persistence, Command and Control"),
    ("T1219", "Remote Access Tools", COMMAND),
    ("T1222", "File and Directory Permissions Modification", EVASION),
    ("T1222.002", "File and Directory Permissions Modification: Linux and Mac", EVASION),
    ("T1485", "Data Destruction", IMPACT),
    ("T1486", "Data Encrypted for Impact", IMPACT),
    ("T1489", "Service Stop", IMPACT),
    ("T1496", "Resource Hijacking", IMPACT),
    ("T1496.001", "Resource Hijacking: Compute Hijacking", IMPACT),
    ("T1505", "Server Software Component", PERSISTENCE),
    ("T1505.003", "Server Software Component: Web Shell", PERSISTENCE),
    ("T1543", "Create or Modify System Process", "Persistence, Privilege Escalation"),
    ("T1543.002", "Create or Modify System Process: Systemd Service", "Persistence, Privilege Escalation"),
    ("T1546", "Event Triggered Execution", "Persistence, Privilege Escalation"),
    (
        "T1546.004",
        "Event Triggered Execution: Unix Shell Configuration Modification",
        "Persistence, Privilege Escalation",
    ),
    ("T1547", "Boot or Logon Autostart Execution", "Persistence, Privilege Escalation"),
    (
        "T1547.006",
        "Boot or Logon Autostart Execution: Kernel Modules and Extensions",
        "Persistence, Privilege Escalation",
    ),
    ("T1548", "Abuse Elevation Control Mechanism", "Privilege Escalation, Defense Evasion"),
    (
        "T1548.001",
        "Abuse Elevation Control Mechanism: Setuid and Setgid",
        "Privilege Escalation, Defense Evasion",
    ),
    (
        "T1548.003",
        "Abuse Elevation Control Mechanism: Sudo and Sudo Caching",
        "Privilege Escalation, Defense Evasion",
    ),
    ("T1552", "Unsecured Credentials", ACCESS),
    ("T1552.001", "Unsecured Credentials: Credentials In Files", ACCESS),
    ("T1552.003", "Unsecured Credentials: Shell History", ACCESS),
    ("T1552.004", "Unsecured Credentials: Private Keys", ACCESS),
    ("T1552.005", "Unsecured Credentials: Cloud Instance Metadata API", ACCESS),
    ("T1555", "Credentials from Password Stores", ACCESS),
    ("T1556", "Modify Authentication Process", "Credential Access, Defense Evasion, Persistence"),
    (
        "T1556.003",
        "Modify Authentication Process: Pluggable Authentication Modules",
        "Credential Access, Defense Evasion, Persistence",
    ),
    ("T1560", "Archive Collected Data", COLLECTION),
    ("T1562", "Impair Defenses", EVASION),
    ("T1562.001", "Impair Defenses: Disable or Modify Tools", EVASION),
    ("T1562.004", "Impair Defenses: Disable or Modify System Firewall", EVASION),
    ("T1562.012", "Impair Defenses: Disable or Modify Linux Audit System", EVASION),
    ("T1564", "Hide Artifacts", EVASION),
    ("T1564.001", "Hide Artifacts: Hidden Files and Directories", EVASION),
    ("T1565", "Data Manipulation", IMPACT),
    ("T1567", "Exfiltration Over Web Service", EXFILTRATION),
    ("T1568", "Dynamic Resolution", COMMAND),
    ("T1569", "System Services", EXECUTION),
    ("T1569.002", "System Services: Service Execution", EXECUTION),
    ("T1570", "Lateral Tool Transfer", LATERAL),
    ("T1571", "Non-Standard Port", COMMAND),
    ("T1572", "Protocol Tunneling", COMMAND),
    ("T1573", "Encrypted Channel", COMMAND),
    ("T1574", "Hijack Execution Flow", "Persistence, Privilege Escalation, Defense Evasion"),
    (
        "T1574.006",
        "Hijack Execution Flow: Dynamic Linker Hijacking",
        "Persistence, Privilege Escalation, Defense Evasion",
    ),
    ("T1595", "Active Scanning", "Reconnaissance"),
    ("T1609", "Container Administration Command", EXECUTION),
    ("T1610", "Deploy Container", "Defense Evasion, Execution"),
    ("T1611", "Escape to Host", ESCALATION),
    ("T1613", "Container and Resource Discovery", DISCOVERY),
    ("T1620", "Reflective Code Loading", EVASION),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_order_and_stand_once() {
        assert!(TECHNIQUES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn a_sub_technique_that_is_not_listed_is_shown_by_its_parent() {
        assert_eq!(technique("T1059.004").unwrap().name, "Command and Scripting Interpreter: Unix Shell");
        assert_eq!(technique("T1059.999").unwrap().name, "Command and Scripting Interpreter");
        assert_eq!(technique("T9999"), None);
    }
}
