-- Usage of API keys, and decisions, as Tollgate's servers write them. All times are UTC.
--
-- In the tables of usage, subject says whose a row is:
--   key     the key key_id of a team
--   others  keys of the API that were too many to be told apart
--   api     the API as a whole: the sum of its keys, and of requests without a known one.
-- So a query always names a subject, or it counts twice.
--
-- route is '' where none matched. Rows of the same key, route and time become one by and by, so
-- queries use sum() and max().

CREATE TABLE IF NOT EXISTS usage_hour
(
    hour    DateTime('UTC') CODEC(DoubleDelta, ZSTD),
    api     LowCardinality(String),
    subject Enum8('key' = 1, 'others' = 2, 'api' = 3),
    team    String CODEC(ZSTD),
    key_id  String CODEC(ZSTD),
    route   LowCardinality(String),
    allowed SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- requests
    denied  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- requests
    cost    SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD)  -- units of limits that they spent
)
ENGINE = AggregatingMergeTree
PARTITION BY toMonday(hour)
ORDER BY (api, subject, team, key_id, hour, route)
TTL hour + INTERVAL 90 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS usage_day
(
    day         Date CODEC(DoubleDelta, ZSTD),
    api         LowCardinality(String),
    subject     Enum8('key' = 1, 'others' = 2, 'api' = 3),
    team        String CODEC(ZSTD),
    key_id      String CODEC(ZSTD),
    route       LowCardinality(String),
    reason      LowCardinality(String), -- '', or the row says only how many were refused for it
    allowed     SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- requests
    denied      SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- requests
    cost        SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- units of limits that they spent
    refused     SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- requests, for the reason
    -- What the proxy's access log told of requests that were allowed; it need not tell of all.
    status_none SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    status_2xx  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    status_3xx  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    status_4xx  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    status_5xx  SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    bytes_in    SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    bytes_out   SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD),
    ms          SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD), -- the sum of their durations
    max_ms      SimpleAggregateFunction(max, UInt64) CODEC(T64, ZSTD), -- the longest of them
    slow        SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD)  -- longer than the API's slow_after
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(day)
ORDER BY (api, subject, team, key_id, day, route, reason)
TTL day + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;

-- A row for each decision that is logged: serve --log-decisions-to clickhouse. Who does not use that
-- needs no such table. count() / share counts what was decided.

CREATE TABLE IF NOT EXISTS decisions
(
    time              DateTime64(6, 'UTC') CODEC(DoubleDelta, ZSTD),
    allowed           Bool,
    decision_id       String CODEC(ZSTD),
    reason            LowCardinality(String),
    shadow            LowCardinality(String), -- the reason for which only shadow_mode let it pass
    shadow_limit      LowCardinality(String),
    api               LowCardinality(String),
    route             LowCardinality(String),
    scope             LowCardinality(String),
    key_id            String CODEC(ZSTD),
    team              String CODEC(ZSTD),
    plan              LowCardinality(String),
    environment       LowCardinality(String),
    failure_mode      LowCardinality(String),
    preflight         LowCardinality(String),
    asked_api         String CODEC(ZSTD),
    asked_environment String CODEC(ZSTD),
    key_environment   LowCardinality(String),
    status            UInt16 CODEC(T64, ZSTD), -- 0 if it passed
    method            String CODEC(ZSTD),
    host              String CODEC(ZSTD),
    path              String CODEC(ZSTD), -- without a query
    address           String CODEC(ZSTD),
    request_id        String CODEC(ZSTD),
    duration_ms       Float32 CODEC(ZSTD),
    share             Float64 DEFAULT 1 CODEC(ZSTD) -- which part of the decisions with that reason is logged
)
ENGINE = MergeTree
PARTITION BY toDate(time)
ORDER BY (api, key_id, time)
TTL toDateTime(time) + INTERVAL 30 DAY
SETTINGS non_replicated_deduplication_window = 10000, ttl_only_drop_parts = 1;
