package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"tollgate/cmd/tollgate/settings"
	"tollgate/cmd/tollgate/telemetry"
	"tollgate/extauthz/decisionlines"
	"tollgate/policy/usage/clickhouse"
)

// The values of --log-decisions-to.
const (
	DecisionsToLog        = "log"
	DecisionsToStdout     = "stdout"
	DecisionsToOTLP       = "otlp"
	DecisionsToClickHouse = "clickhouse"
)

// gatherRows is how long decisions for ClickHouse are gathered: it wants few inserts with many
// rows.
const gatherRows = 10 * time.Second

// checkDecisionsTo refuses a place that there is not.
func (s *options) checkDecisionsTo() error {
	switch s.logDecisionsTo {
	case DecisionsToClickHouse:
		if s.ClickHouse == "" {
			return fmt.Errorf("--log-decisions-to %s: there is no --%s", DecisionsToClickHouse, settings.ClickHouseFlag)
		}
		return nil
	case DecisionsToLog, DecisionsToStdout, DecisionsToOTLP:
		return nil
	}
	return fmt.Errorf("--log-decisions-to: unknown value %q, want %s, %s, %s or %s", s.logDecisionsTo, DecisionsToLog, DecisionsToStdout, DecisionsToOTLP, DecisionsToClickHouse)
}

// decisions are what has the lines of decisions written to a place of their own.
type decisions struct {
	lines *decisionlines.Lines
	to    string
	sent  *telemetry.Logs // nil unless they are sent by OTLP
}

// openTelemetry makes what sends spans, and what has decisions written.
func (v *service) openTelemetry(ctx context.Context, s *options, stdout io.Writer) (err error) {
	about := telemetry.Server{Version: v.version, Name: serverName()}
	if v.traces, err = telemetry.NewTraces(ctx, os.Getenv, about, v.registry, v.log); err != nil {
		return err
	}
	v.decisions = &decisions{to: s.logDecisionsTo}
	var sink decisionlines.Sink
	var how decisionlines.Options
	switch s.logDecisionsTo {
	case DecisionsToStdout:
		sink = decisionlines.Writer{Writer: stdout}
	case DecisionsToOTLP:
		if v.decisions.sent, how, err = telemetry.NewLogs(ctx, os.Getenv, about); err != nil {
			return fmt.Errorf("--log-decisions-to otlp: %w", err)
		}
		sink = v.decisions.sent
	case DecisionsToClickHouse:
		sink, how = clickhouse.NewDecisions(v.history), decisionlines.Options{Gather: gatherRows, Repeat: true}
	default:
		return nil
	}
	v.decisions.lines = decisionlines.New(sink, how, time.Now, v.registry)
	return nil
}

// run has lines written until ctx ends, and then those that wait.
func (d *decisions) run(ctx context.Context, log *slog.Logger) {
	if d.lines == nil {
		return
	}
	trouble := troubles{log: log, message: map[string]string{
		DecisionsToStdout:     "decisions were not written to standard output, and are lost",
		DecisionsToOTLP:       "decisions were not sent by OTLP, and are lost",
		DecisionsToClickHouse: "decisions were not sent to ClickHouse; they are kept and tried again",
	}[d.to]}
	d.lines.Run(ctx, trouble.tell)
	if d.sent == nil {
		return
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout/2)
	defer cancel()
	if err := d.sent.Close(last); err != nil {
		trouble.tell(err)
	}
}
