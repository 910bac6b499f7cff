package extauthz

import (
	"context"
	"encoding/json"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy"
)

// linesRoom bounds the lines that wait to be written, in bytes: some 10,000.
const linesRoom = 4 << 20

// DecisionLines writes a line of JSON for each decision that it is given. Decisions wait for no
// writing: their lines do, within a bound, and what is beyond it is dropped and counted.
type DecisionLines struct {
	out   io.Writer
	now   func() time.Time
	spare sync.Pool // of *[]byte, for a line that is being made

	written, dropped, failed atomic.Uint64

	mu      sync.Mutex
	waiting []byte // whole lines
	lines   uint64 // in waiting
	room    []byte // what the next lines are put into when waiting is taken
	wake    chan struct{}

	count *prometheus.Desc
}

// NewDecisionLines returns lines that Run writes to out, and registers their metric.
func NewDecisionLines(out io.Writer, now func() time.Time, r prometheus.Registerer) *DecisionLines {
	l := &DecisionLines{
		out: out, now: now, wake: make(chan struct{}, 1),
		spare: sync.Pool{New: func() any { return new([]byte) }},
		count: prometheus.NewDesc("tollgate_decision_log_lines_total", "Lines of the decision log: written; dropped because too many waited to be written; failed to be written.", []string{"outcome"}, nil),
	}
	r.MustRegister(l)
	return l
}

// add takes the line of a decision that took so long, and of whose reason that share is logged.
func (l *DecisionLines) add(check *policy.Check, took time.Duration, share float64) {
	line := l.spare.Get().(*[]byte)
	defer l.spare.Put(line)
	*line = appendDecision((*line)[:0], check, l.now(), took, share)
	l.mu.Lock()
	fits := len(l.waiting)+len(*line) <= linesRoom
	if fits {
		l.waiting = append(l.waiting, *line...)
		l.lines++
	}
	l.mu.Unlock()
	if !fits {
		l.dropped.Add(1)
		return
	}
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
}

// Run writes lines until ctx ends, and then those that wait. failed is told of each time that
// lines could not be written; these are lost.
func (l *DecisionLines) Run(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-l.wake:
			l.write(failed)
		case <-ctx.Done():
			l.write(failed)
			return
		}
	}
}

func (l *DecisionLines) write(failed func(error)) {
	l.mu.Lock()
	lines, n := l.waiting, l.lines
	l.waiting, l.lines = l.room[:0], 0
	l.mu.Unlock()
	if n == 0 {
		return
	}
	if _, err := l.out.Write(lines); err != nil {
		l.failed.Add(n)
		failed(err)
	} else {
		l.written.Add(n)
	}
	l.room = lines // nobody else uses room
}

// Describe implements prometheus.Collector.
func (l *DecisionLines) Describe(out chan<- *prometheus.Desc) { out <- l.count }

// Collect implements prometheus.Collector.
func (l *DecisionLines) Collect(out chan<- prometheus.Metric) {
	for outcome, n := range map[string]*atomic.Uint64{"written": &l.written, "dropped": &l.dropped, "failed": &l.failed} {
		out <- prometheus.MustNewConstMetric(l.count, prometheus.CounterValue, float64(n.Load()), outcome)
	}
}

// appendDecision appends the line of a decision. Its fields are those of the dynamic metadata, by
// the same names, and what the metadata leaves to the proxy's own log.
func appendDecision(b []byte, check *policy.Check, now time.Time, took time.Duration, share float64) []byte {
	d := check.Decision()
	b = append(b, `{"time":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","allowed":`...)
	b = strconv.AppendBool(b, d.Allow)
	for _, m := range d.Metadata {
		b = appendField(b, m.Name, m.Value)
	}
	if d.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(d.Status), 10)
	}
	s := check.Shown()
	b = appendField(b, "method", s.Method)
	if d.Meta("host") == "" {
		b = appendField(b, "host", s.Host)
	}
	b = appendField(b, "path", s.Path)
	b = appendField(b, "address", s.Address)
	b = appendField(b, "request_id", s.RequestID)
	b = append(b, `,"duration_ms":`...)
	b = strconv.AppendFloat(b, float64(took.Microseconds())/1000, 'f', 3, 64)
	if share < 1 {
		b = append(b, `,"share":`...)
		b = strconv.AppendFloat(b, share, 'g', -1, 64)
	}
	return append(b, "}\n"...)
}

// appendField appends a field that is not empty. name is plain.
func appendField(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = append(b, `,"`...)
	b = append(b, name...)
	b = append(b, `":`...)
	for i := range len(value) {
		if c := value[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(value) // a text always can be; bytes that are not UTF-8 become U+FFFD
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}
