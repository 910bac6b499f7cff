package doctor

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/extauthz"
)

// String names the Envoy of a log.
func (l *log) String() string {
	return "Envoy " + output.OrDash(output.Printable(l.Node)) + " (" + output.Printable(l.Address) + ")"
}

// seconds prints a time with as much of it as matters.
func seconds(s float64) string {
	switch {
	case s < 1:
		return strconv.FormatFloat(s*1000, 'f', 0, 64) + " ms"
	case s < 120:
		return strconv.FormatFloat(s, 'f', 1, 64) + " s"
	}
	return strconv.FormatFloat(s/60, 'f', 0, 64) + " min"
}

// table prints for people.
func (f *findings) table(w io.Writer) error {
	var b strings.Builder
	if f.WatchedSeconds > 0 {
		fmt.Fprintf(&b, "%s, %s: %d requests decided, %d ended by the access logs\n", output.Count(f.Servers, "server"), seconds(f.WatchedSeconds), f.Decided, f.Ended)
	}
	if len(f.Logs) > 0 {
		rows := [][]string{{"NODE", "ADDRESS", "LOG", "STREAMS", "LAST ENTRY", "LAG", "OUR METADATA"}}
		for _, l := range f.Logs {
			rows = append(rows, l.row())
		}
		if err := output.Columns(&b, rows); err != nil {
			return err
		}
	}
	for _, a := range f.APIs {
		longest := "no long request was seen"
		if a.LongestSeconds > 0 {
			longest = "silent about a request for " + seconds(a.LongestSeconds) + " at most"
		}
		fmt.Fprintf(&b, "api %s: %s; a third of max_duration is %s\n", output.Printable(a.Name), longest, seconds(a.MostSeconds))
	}
	for _, p := range f.Problems {
		p.write(&b)
	}
	if len(f.Problems) == 0 {
		b.WriteString("ok\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (l *log) row() []string {
	known := func(s float64, after string) string {
		if s < 0 {
			return "-"
		}
		return seconds(s) + after
	}
	e := &l.Entries
	ours := e[extauthz.LogEnded] + e[extauthz.LogPeriodic]
	metadata := fmt.Sprintf("%d of %d", ours, ours+e[extauthz.LogForeign])
	if !l.read {
		metadata = "not read"
	}
	return []string{
		output.OrDash(l.Node), l.Address, output.OrDash(l.Name), strconv.Itoa(l.Streams),
		known(l.AgeSeconds, " ago"), known(l.LagSeconds, ""), metadata,
	}
}

// write prints a problem, and what to change.
func (p *problem) write(b *strings.Builder) {
	fmt.Fprintf(b, "problem: %s\n", p.Text)
	for _, c := range [][2]string{{"Envoy", p.Change.Envoy}, {"Istio", p.Change.Istio}, {"Envoy Gateway", p.Change.EnvoyGateway}, {"", p.Change.Any}} {
		switch {
		case c[1] == "":
		case c[0] == "":
			fmt.Fprintf(b, "  %s\n", c[1])
		default:
			fmt.Fprintf(b, "  %s: %s\n", c[0], c[1])
		}
	}
}
