-- The tables of a workspace. One page, because every other module of the agent is a reader or a writer of it.
-- Times are RFC 3339 text in UTC with microseconds, so that they sort. Arrays are little-endian float32 bytes.
-- Statements use named parameters (:name) and no SQLite-only functions outside this package.

-- cases ---------------------------------------------------------------------------------------------------------------

CREATE TABLE patients (
    patient_key  TEXT PRIMARY KEY,       -- keyed hash; the key lies in the workspace, mode 0600
    split        TEXT NOT NULL CHECK (split IN ('train', 'develop', 'judge')),  -- at first sight, for ever
    first_seen   TEXT NOT NULL
);

CREATE TABLE cases (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,          -- order of intake
    case_id      TEXT NOT NULL UNIQUE,
    alias_of     TEXT REFERENCES cases (case_id),            -- same bytes as an earlier case: never observed itself
    origin       TEXT NOT NULL CHECK (origin IN ('reference', 'feed')),
    state        TEXT NOT NULL CHECK (state IN ('pending', 'observed', 'unreadable')),
    patient_key  TEXT NOT NULL REFERENCES patients (patient_key),
    study_key    TEXT,
    domain       TEXT,                                       -- set at observation; anchors and memory balance over it
    site         TEXT,
    scanner      TEXT,
    acquired_at  TEXT,
    received_at  TEXT NOT NULL,
    facts        TEXT NOT NULL                               -- JSON: sex, age, unknown columns; never the patient's id
);
CREATE INDEX cases_pending ON cases (state, acquired_at, seq);
CREATE INDEX cases_timed ON cases (seq) WHERE origin = 'feed' AND acquired_at IS NOT NULL;
CREATE INDEX cases_patient ON cases (patient_key);
CREATE INDEX cases_reference ON cases (case_id) WHERE origin = 'reference';  -- few; `status` counts without the rest

CREATE TABLE inputs (
    case_id      TEXT NOT NULL REFERENCES cases (case_id),
    role         TEXT NOT NULL,                              -- 'image'; later view, prior, text, prompt
    uri          TEXT NOT NULL,                              -- relative to the workspace: objects/ab/abcd...
    digest       TEXT NOT NULL,                              -- sha256 of the bytes
    media_type   TEXT NOT NULL,
    PRIMARY KEY (case_id, role)
);
CREATE INDEX inputs_digest ON inputs (digest);

CREATE TABLE appearances (
    case_id      TEXT PRIMARY KEY REFERENCES cases (case_id),
    quality      BLOB NOT NULL                               -- monitors.QUALITY in numbers, set at observation
);

CREATE TABLE labels (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    case_id      TEXT NOT NULL REFERENCES cases (case_id),   -- the canonical case, never an alias
    kind         TEXT NOT NULL,                              -- of the workspace's task: 'class', 'findings', 'mask', 'boxes'
    value        TEXT NOT NULL,                              -- the class, findings as a|b or none, or the file's uri: objects/ab/abcd...
    by           TEXT,
    at           TEXT,                                       -- label time; event time is cases.acquired_at
    received_at  TEXT NOT NULL,
    model_output_seen INTEGER,
    arm          TEXT NOT NULL,                              -- 'with_case', 'import', 'audit', 'alarm', 'active'
    UNIQUE (case_id, kind)
);

CREATE TABLE asked (                                         -- cases whose label was asked for, and by which chance
    case_id      TEXT PRIMARY KEY REFERENCES cases (case_id),
    arm          TEXT NOT NULL CHECK (arm IN ('active', 'alarm', 'audit')),
    probability  REAL,                                       -- of being drawn; null where doubt had a say
    why          TEXT NOT NULL,
    at           TEXT NOT NULL
);

CREATE TABLE quarantine (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL,
    reason       TEXT NOT NULL,
    digest       TEXT NOT NULL DEFAULT '',
    at           TEXT NOT NULL,
    UNIQUE (name, digest)                                    -- intake is idempotent in its refusals too
);

-- observations, evidence, alarms --------------------------------------------------------------------------------------

CREATE TABLE observations (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    number       INTEGER UNIQUE,                             -- live ones only: 1, 2, ... in order of observation
    case_id      TEXT NOT NULL REFERENCES cases (case_id),
    version      TEXT NOT NULL,
    role         TEXT NOT NULL CHECK (role IN ('live', 'shadow', 'replay')),
    form         TEXT NOT NULL,                              -- 'scores', 'regions', 'boxes'
    output_digest TEXT NOT NULL,
    scores       BLOB NOT NULL,
    sensor       TEXT NOT NULL,
    embedding    BLOB NOT NULL,
    trust        TEXT NOT NULL,
    abstained    INTEGER NOT NULL,                           -- far out: no answer is given for this case
    tick         INTEGER,                                    -- the decision tick that read it; null until then
    at           TEXT NOT NULL,
    UNIQUE (case_id, version, role)
);
CREATE INDEX observations_tick ON observations (tick, number);
CREATE INDEX observations_open ON observations (number) WHERE tick IS NULL AND role = 'live';  -- not yet decided on

CREATE TABLE answers (                                       -- what scores don't tell of an answer, for tasks with more
    observation  INTEGER PRIMARY KEY REFERENCES observations (id),
    content      BLOB NOT NULL,                              -- a label map as PNG, of the model's size; boxes as JSON
    sure         REAL NOT NULL,                              -- what the model itself expects it to be worth, 0..1
    worth        REAL                                        -- beside the label, 0..1 (Dice, F1); null until one is there
);

CREATE TABLE reference_epochs (
    epoch        INTEGER PRIMARY KEY,
    version      TEXT NOT NULL,                              -- the version that was approved on these cases
    sensor       TEXT NOT NULL,
    opened_at    TEXT NOT NULL
);

CREATE TABLE reference_members (
    epoch        INTEGER NOT NULL REFERENCES reference_epochs (epoch),
    case_id      TEXT NOT NULL REFERENCES cases (case_id),
    part         TEXT NOT NULL CHECK (part IN ('transform', 'calibrate')),
    PRIMARY KEY (epoch, case_id)
);

CREATE TABLE monitor_state (
    epoch        INTEGER NOT NULL,
    monitor      TEXT NOT NULL,
    key          TEXT NOT NULL,
    value        BLOB NOT NULL,                              -- one array as .npy bytes
    PRIMARY KEY (epoch, monitor, key)
);

CREATE TABLE signals (
    tick         INTEGER NOT NULL,
    monitor      TEXT NOT NULL,                              -- 'family' is the row of the rule over all
    at_case      INTEGER NOT NULL,
    time         TEXT,                                       -- event time of the tick, where there is one
    log_e        REAL NOT NULL,
    statistic    REAL NOT NULL,
    threshold    REAL NOT NULL,
    n            INTEGER NOT NULL,
    PRIMARY KEY (tick, monitor)
);

CREATE INDEX signals_time ON signals (time);

CREATE TABLE alarms (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    monitor      TEXT NOT NULL,
    stream       TEXT NOT NULL DEFAULT 'known' CHECK (stream IN ('known', 'new', 'all')),  -- see drift/domains
    shift        TEXT,                                       -- null for silence, volume and schema
    state        TEXT NOT NULL CHECK (state IN ('open', 'acknowledged', 'closed')),
    opened_at    TEXT NOT NULL,
    opened_at_case INTEGER NOT NULL,
    since_case   INTEGER,
    statistic    REAL NOT NULL,
    threshold    REAL NOT NULL,
    score        REAL NOT NULL,                              -- log evidence of the family at the alarm
    evidence     TEXT NOT NULL,                              -- JSON
    acknowledged_by TEXT,
    closed_at    TEXT,
    closed_because TEXT,
    notified_at  TEXT                                        -- last time that a channel took it
);

CREATE TABLE alerts (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    episode      TEXT NOT NULL UNIQUE,                       -- 'alarm-3', 'alarm-3-reminder-1': each is told once
    alarm        INTEGER REFERENCES alarms (id),
    message      TEXT NOT NULL,                              -- JSON: title and text
    at           TEXT NOT NULL,
    deliveries   TEXT NOT NULL DEFAULT '{}',                 -- JSON: by channel, what became of it and when to try again
    done         INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX alerts_due ON alerts (id) WHERE done = 0;

-- versions and what is live -------------------------------------------------------------------------------------------

CREATE TABLE versions (
    number       INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,                       -- 'v' and the number; never used again
    parent       TEXT,
    state        TEXT NOT NULL,
    recipe       TEXT NOT NULL,
    digest       TEXT,                                       -- of SHA256SUMS; null until the bundle is written
    plan_digest  TEXT NOT NULL,
    base_digest  TEXT NOT NULL,
    created_at   TEXT NOT NULL,
    approved_by  TEXT,
    approved_because TEXT,
    job          TEXT,
    measures     TEXT                                        -- JSON
);
CREATE INDEX versions_state ON versions (state, number);

CREATE TABLE verdicts (
    version      TEXT NOT NULL REFERENCES versions (id),
    gate         TEXT NOT NULL,                              -- 'forgetting:home:original'
    role         TEXT NOT NULL CHECK (role IN ('require', 'inform')),
    verdict      TEXT NOT NULL CHECK (verdict IN ('PASS', 'FAIL', 'INSUFFICIENT')),
    n            INTEGER NOT NULL,
    before       REAL,
    after        REAL,
    low          REAL,
    high         REAL,
    margin       REAL NOT NULL,
    needed       INTEGER,
    says         TEXT NOT NULL,
    at           TEXT NOT NULL,
    PRIMARY KEY (version, gate)
);

CREATE TABLE anchor_sets (
    domain       TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    digest       TEXT NOT NULL,
    n_patients   INTEGER NOT NULL,
    alpha        REAL NOT NULL,
    spent        REAL NOT NULL,
    opened_at    TEXT NOT NULL,
    PRIMARY KEY (domain, generation)
);

CREATE TABLE anchor_members (
    domain       TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    case_id      TEXT NOT NULL REFERENCES cases (case_id),
    PRIMARY KEY (domain, generation, case_id)
);

CREATE TABLE looks (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    domain       TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    version      TEXT NOT NULL,
    alpha        REAL NOT NULL,
    passed       INTEGER NOT NULL,                           -- no harm at this domain: the next look gets its alpha too
    revealed     TEXT NOT NULL CHECK (revealed IN ('verdict', 'rounded', 'all')),
    at           TEXT NOT NULL
);
CREATE INDEX looks_anchors ON looks (domain, generation);

CREATE TABLE live (
    scope        TEXT PRIMARY KEY,                           -- '*' is global
    version      TEXT NOT NULL REFERENCES versions (id),
    generation   INTEGER NOT NULL,
    since        TEXT NOT NULL
);

CREATE TABLE activations (
    scope        TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    version      TEXT NOT NULL,
    previous     TEXT,
    at           TEXT NOT NULL,
    by           TEXT NOT NULL,
    reason       TEXT NOT NULL,
    how          TEXT NOT NULL CHECK (how IN ('init', 'promote', 'rollback')),
    PRIMARY KEY (scope, generation)
);
CREATE INDEX activations_version ON activations (scope, version, generation);

CREATE TABLE memory (
    version      TEXT NOT NULL,                              -- the rehearsal sample of a version: what live's successor rehearses
    case_id      TEXT NOT NULL REFERENCES cases (case_id),
    domain       TEXT NOT NULL,
    PRIMARY KEY (version, case_id)
);

CREATE TABLE jobs (
    id           TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    spec_digest  TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'abandoned')),
    attempt      INTEGER NOT NULL,
    lease_until  TEXT,
    pid          INTEGER,
    created_at   TEXT NOT NULL,
    ended_at     TEXT,
    says         TEXT
);

-- the record ----------------------------------------------------------------------------------------------------------

CREATE TABLE journal (
    seq          INTEGER PRIMARY KEY,
    at           TEXT NOT NULL,
    event        TEXT NOT NULL,
    by           TEXT NOT NULL,
    body         TEXT NOT NULL,                              -- canonical JSON: what the hash is taken over
    hash         TEXT NOT NULL
);
CREATE INDEX journal_event ON journal (event, seq);          -- what people are told of is found without the rest

CREATE TABLE journal_head (
    id           INTEGER PRIMARY KEY CHECK (id = 1),
    seq          INTEGER NOT NULL,
    hash         TEXT NOT NULL
);

CREATE TABLE settings (
    key          TEXT PRIMARY KEY,                           -- 'trust', 'automatic_promotion', 'classes', ...
    value        TEXT NOT NULL                               -- JSON
);
