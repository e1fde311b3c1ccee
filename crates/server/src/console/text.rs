//! Every word the console shows, in both languages: one table, one line a text.

use axum::http::HeaderMap;
use axum::http::header;
use watchfire_event::Level;

/// A language of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Lang {
    /// English.
    #[default]
    En,
    /// Simplified Chinese.
    Zh,
}

impl Lang {
    /// As in `?lang=` and in `<html lang>`.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Lang::En => "en",
            Lang::Zh => "zh",
        }
    }

    /// The other one.
    pub(super) fn other(self) -> Lang {
        match self {
            Lang::En => Lang::Zh,
            Lang::Zh => Lang::En,
        }
    }

    /// What a person calls it.
    pub(super) fn own_name(self) -> &'static str {
        match self {
            Lang::En => "English",
            Lang::Zh => "中文",
        }
    }

    pub(super) fn from_tag(tag: &str) -> Option<Lang> {
        let primary = tag.trim().split(['-', '_', ';']).next().unwrap_or_default();
        match primary.to_ascii_lowercase().as_str() {
            "en" => Some(Lang::En),
            "zh" => Some(Lang::Zh),
            _ => None,
        }
    }

    /// The first language of `Accept-Language` that the console speaks. Browsers list them best first; weights that say
    /// otherwise are not worth their parser.
    pub(super) fn accepted(headers: &HeaderMap) -> Option<Lang> {
        let line = headers.get(header::ACCEPT_LANGUAGE)?.to_str().ok()?;
        line.split(',').take(16).find_map(Lang::from_tag)
    }
}

macro_rules! texts {
    ($($name:ident: $en:literal, $zh:literal;)*) => {
        /// A text of the console.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Text { $(#[doc = $en] $name),* }

        impl Text {
            /// All texts.
            #[cfg(test)]
            const ALL: &'static [Text] = &[$(Text::$name),*];

            /// This text in `lang`.
            pub(super) fn to(self, lang: Lang) -> &'static str {
                match (self, lang) {
                    $((Text::$name, Lang::En) => $en, (Text::$name, Lang::Zh) => $zh,)*
                }
            }
        }
    };
}

texts! {
    Overview: "Overview", "概览";
    Alerts: "Alerts", "告警";
    Events: "Events", "事件";
    Hosts: "Hosts", "主机";
    Ledger: "Ledger", "账本";
    LogOut: "Log out", "退出登录";
    Host: "Host", "主机";
    System: "System", "系统";
    Kernel: "Kernel", "内核";
    Agent: "Agent", "Agent 版本";
    State: "State", "状态";
    Online: "online", "在线";
    Offline: "offline", "离线";
    Attached: "sensors attached", "传感器已挂载";
    NotAttached: "sensors not attached", "传感器未挂载";
    RulesLoaded: "Rules loaded", "已加载规则";
    AlertsDropped: "Alerts dropped", "丢弃的告警";
    RuleFaults: "Rule files that could not be used", "无法使用的规则文件";
    Booted: "Booted", "开机时间";
    FirstSeen: "First seen", "首次出现";
    LastSeen: "Last seen", "最近出现";
    Sources: "Event sources", "事件来源";
    Source: "Source", "来源";
    Detail: "Detail", "说明";
    Active: "active", "使用中";
    Standby: "standby", "备用";
    Unavailable: "unavailable", "不可用";
    Memory: "Memory", "内存";
    CpuTime: "CPU time", "CPU 时间";
    NoAgent: "No agent has connected yet.", "尚无 agent 连接。";
    LiveAlerts: "Live alerts", "实时告警";
    LiveEvents: "Live events", "实时事件";
    LastMinute: "Events per second, last minute", "最近一分钟每秒事件数";
    PerSecond: "/s", "/秒";
    Live: "live", "实时";
    Reconnecting: "reconnecting…", "正在重连……";
    NoAlerts: "No alerts. All is quiet.", "没有告警，一切平静。";
    NoEvents: "No events match.", "没有符合条件的事件。";
    TimeUtc: "Time (UTC)", "时间（UTC）";
    Level: "Level", "级别";
    Rule: "Rule", "规则";
    Process: "Process", "进程";
    Command: "Command line", "命令行";
    User: "User", "用户";
    Kind: "Kind", "类型";
    What: "What happened", "发生了什么";
    Parent: "Parent", "父进程";
    AllLevels: "All levels", "所有级别";
    AndAbove: "and above", "及以上";
    AllKinds: "All kinds", "所有类型";
    Filter: "Filter", "筛选";
    Recent: "The newest are shown first, at most this many:", "最新的在最前，最多显示条数：";
    Informational: "informational", "提示";
    Low: "low", "低危";
    Medium: "medium", "中危";
    High: "high", "高危";
    Critical: "critical", "严重";
    ProcessTree: "Process tree", "进程树";
    Matched: "Matched fields", "匹配的字段";
    Field: "Field", "字段";
    Value: "Value", "值";
    Attack: "ATT&CK", "ATT&CK";
    Technique: "Technique", "技术";
    Tactic: "Tactic", "战术";
    Times: "From the kernel to the store", "从内核到存储";
    SeenByKernel: "seen by the kernel", "内核看到";
    Decoded: "decoded", "解码完成";
    Judged: "judged", "判定完成";
    Stored: "stored", "存储完成";
    Latency: "Latency", "延迟";
    Milliseconds: "ms", "毫秒";
    Directory: "Directory", "工作目录";
    Container: "Container", "容器";
    Started: "Started", "启动时间";
    Terminal: "Terminal", "终端";
    LoginUser: "Login user", "登录用户";
    StdStreams: "stdin, stdout, stderr", "标准输入、输出、错误";
    Image: "Image", "映像文件";
    Unlinked: "unlinked", "已删除";
    InMemory: "in memory only", "仅在内存中";
    SetUserId: "set-uid", "set-uid";
    Truncated: "cut; its true length in bytes is", "已截断；真实字节长度为";
    Origin: "Known from", "信息来源";
    AlertNotFound: "There is no alert with this id.", "没有这个编号的告警。";
    PageNotFound: "There is no such page.", "没有这个页面。";
    LedgerIntro: "What each stage did with what it took in. The sums close when seen = passed + filtered + dropped + held, and each stage has seen what the one before passed.", "每个阶段如何处理收到的事件。当“收到 = 传出 + 过滤 + 丢弃 + 暂存”，且每个阶段收到的等于前一阶段传出的，账目即平衡。";
    Balanced: "The books balance.", "账目平衡。";
    NotBalanced: "The books do not balance.", "账目不平衡。";
    NoBooks: "No agent has sent its books yet.", "尚无 agent 发来账目。";
    AsOf: "As of", "截至";
    Filtered: "filtered", "过滤";
    Dropped: "dropped", "丢弃";
    Held: "held", "暂存";
    StageKernel: "kernel", "内核";
    StageSensor: "sensor", "传感器";
    StageDetect: "detection", "检测";
    StageUplink: "uplink", "上行";
    StageIngest: "ingest", "接收";
    StageLog: "log", "日志";
    StageLake: "lake", "数据湖";
    LoginTitle: "Log in", "登录";
    LoginHow: "This console has no password. Get a one-time link on the server's machine:", "本控制台没有密码。请在服务器上获取一次性登录链接：";
    LinkDead: "This link was used before, or its ten minutes are over.", "此链接已被使用过，或已超过十分钟有效期。";
    Welcome: "You are logged in.", "登录成功。";
    GoOn: "Continue to the console", "进入控制台";
    StoreFailed: "The store could not answer; the server's log says why.", "存储无法响应，原因见服务器日志。";
    BadRequest: "This address asks for something the console does not know.", "此地址包含控制台不认识的参数。";
    Back: "Back to all alerts", "返回告警列表";
    Raw: "As JSON", "JSON 原文";
    MoreInTable: "All alerts", "全部告警";
}

/// The text for a level.
pub(super) fn level_text(level: Level) -> Text {
    match level {
        Level::Informational => Text::Informational,
        Level::Low => Text::Low,
        Level::Medium => Text::Medium,
        Level::High => Text::High,
        Level::Critical => Text::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn every_text_stands_in_both_languages() {
        // Words that are the same in both: names and units.
        let same = [Text::Attack, Text::SetUserId];
        for text in Text::ALL {
            let (en, zh) = (text.to(Lang::En), text.to(Lang::Zh));
            assert!(!en.trim().is_empty() && !zh.trim().is_empty(), "{text:?}");
            assert!(en.is_ascii() || en.contains('…'), "{text:?}: {en}");
            let is_chinese = zh.chars().any(|character| ('\u{4e00}'..='\u{9fff}').contains(&character));
            assert!(is_chinese || same.contains(text), "{text:?}: {zh}");
        }
    }

    #[test]
    fn the_first_language_that_is_spoken_is_taken() {
        let accepted = |line: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static(line));
            Lang::accepted(&headers)
        };
        assert_eq!(accepted("zh-CN,zh;q=0.9,en;q=0.8"), Some(Lang::Zh));
        assert_eq!(accepted("de,en-GB;q=0.7"), Some(Lang::En));
        assert_eq!(accepted("fr"), None);
        assert_eq!(Lang::from_tag("x".repeat(1000).as_str()), None);
    }
}
