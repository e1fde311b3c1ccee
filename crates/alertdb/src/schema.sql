CREATE TABLE hosts (
    host          BLOB PRIMARY KEY,          -- 16 bytes
    hostname      TEXT NOT NULL,
    os            TEXT NOT NULL,
    kernel        TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    boot          BLOB NOT NULL,             -- 16 bytes
    incarnation   INTEGER NOT NULL,          -- boot nanoseconds of the agent's start
    first_seen    INTEGER NOT NULL,          -- times are unix nanoseconds
    last_seen     INTEGER NOT NULL,
    online        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    number      INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which they were stored
    id          BLOB NOT NULL UNIQUE,              -- 16 bytes
    host        BLOB NOT NULL REFERENCES hosts (host),
    boot        BLOB NOT NULL,
    incarnation INTEGER NOT NULL,
    sequence    INTEGER NOT NULL,
    time        INTEGER NOT NULL,                  -- of the event that completed the match
    stored      INTEGER NOT NULL,
    rule        TEXT NOT NULL,
    title       TEXT NOT NULL,
    level       INTEGER NOT NULL,                  -- 1 informational to 5 critical
    attack      TEXT NOT NULL,                     -- technique ids, a blank between
    kind        INTEGER NOT NULL,
    tgid        INTEGER NOT NULL,
    exe         BLOB NOT NULL,
    uid         INTEGER NOT NULL,
    alert       BLOB NOT NULL,                     -- the whole alert as agent.v1.Alert
    UNIQUE (host, boot, incarnation, sequence)
) STRICT;

CREATE INDEX alerts_by_time ON alerts (time);
CREATE INDEX alerts_by_rule ON alerts (rule, number);

-- How far each run of an agent came without a gap.
CREATE TABLE streams (
    host        BLOB NOT NULL,
    boot        BLOB NOT NULL,
    incarnation INTEGER NOT NULL,
    last        INTEGER NOT NULL,
    PRIMARY KEY (host, boot, incarnation)
) STRICT, WITHOUT ROWID;
