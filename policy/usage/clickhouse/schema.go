package clickhouse

import _ "embed"

//go:embed schema.sql
var schema string

//go:embed systemlogs.xml
var systemLogs string

// Schema returns what an operator lets clickhouse-client run before servers write: the tables, with
// how long rows are kept, and in a comment SystemLogs.
func Schema() string {
	return schema + "\n/* And so that its own logs do not outgrow that, as /etc/clickhouse-server/config.d/system-logs.xml:\n\n" + systemLogs + "*/\n"
}

// SystemLogs returns a file of ClickHouse's config.d that keeps the logs it writes about itself
// small: by default they grow without end.
func SystemLogs() string { return systemLogs }
