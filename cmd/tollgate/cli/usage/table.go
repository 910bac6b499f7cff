package usage

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"tollgate/policy/usage"
)

// NoLog is said in place of what the access log would tell.
const NoLog = "no access log seen"

// note says what a reader has to know about the numbers.
func (o *output) note() string {
	var notes []string
	r := o.report
	switch {
	case len(o.rows) == 0 && r.By == usage.ByStatus && r.Total.Allowed > 0:
		notes = append(notes, NoLog)
	case len(o.rows) == 0:
		notes = append(notes, "nothing was counted")
	case r.By.HasSeen() && r.Total.Allowed > 0 && r.Total.Observed() == 0:
		notes = append(notes, NoLog+": status, bytes and times are not known")
	}
	if o.historyFrom > 0 {
		notes = append(notes, "history begins on "+o.historyFrom.Start().Format(time.DateOnly))
	}
	if r.Cut {
		notes = append(notes, "days of a month before its sum was made are left out; ask for whole months, such as --since 3mo")
	}
	return strings.Join(notes, "; ")
}

// table prints for people: numbers to the right, and bars where the output is a terminal.
func (o *output) table(w io.Writer) error {
	last := (o.to + 1).Start().Add(-time.Second)
	if _, err := fmt.Fprintf(w, "%s, %s to %s UTC\n", o.about, o.report.From.Start().Format("2006-01-02 15:04"), last.Format(time.DateOnly)); err != nil {
		return err
	}
	if o.glance != nil {
		if err := o.glance.write(w); err != nil {
			return err
		}
	}
	if len(o.rows) > 0 {
		if err := o.lines(w); err != nil {
			return err
		}
	}
	if note := o.note(); note != "" {
		_, err := fmt.Fprintln(w, note)
		return err
	}
	return nil
}

func (o *output) lines(w io.Writer) error {
	by := o.report.By
	header := []string{strings.ToUpper(string(by))}
	switch {
	case by == usage.ByReason:
		header = append(header, "DENIED")
	case by == usage.ByStatus:
		header = append(header, "OBSERVED", "SHARE")
	case by == usage.ByHour:
		header = append(header, "ALLOWED", "DENIED", "COST")
	default:
		header = append(header, "ALLOWED", "DENIED", "COST", "OBSERVED", "4XX", "5XX", "MEAN", "MAX", "SLOW", "IN", "OUT")
	}
	lines := [][]string{header}
	most := uint64(1)
	for i := range o.rows {
		lines = append(lines, o.line(o.rows[i].Name, &o.rows[i].Measures))
		most = max(most, amount(by, &o.rows[i].Measures))
	}
	if len(o.rows) > 1 && by != usage.ByReason && by != usage.ByStatus {
		lines = append(lines, o.line("total", &o.report.Total))
	}
	if isTerminal(w) {
		lines[0] = append(lines[0], "")
		for i := range o.rows {
			lines[i+1] = append(lines[i+1], bar(amount(by, &o.rows[i].Measures), most))
		}
	}
	return columns(w, lines)
}

// amount is what the bar of a row shows.
func amount(by usage.By, m *usage.Measures) uint64 {
	if by == usage.ByStatus {
		return m.Observed()
	}
	return m.Allowed + m.Denied
}

func (o *output) line(name string, m *usage.Measures) []string {
	n := func(n uint64) string { return strconv.FormatUint(n, 10) }
	observed := m.Observed()
	switch o.report.By {
	case usage.ByReason:
		return []string{name, n(m.Denied)}
	case usage.ByStatus:
		return []string{name, n(observed), share(observed, o.report.Total.Observed())}
	case usage.ByHour:
		return []string{name, n(m.Allowed), n(m.Denied), n(m.Cost)}
	}
	line := []string{name, n(m.Allowed), n(m.Denied), n(m.Cost)}
	if observed == 0 {
		none := "none"
		if m.Allowed == 0 {
			none = "-"
		}
		return append(line, none, "-", "-", "-", "-", "-", "-", "-")
	}
	return append(line, share(observed, m.Allowed), share(m.Status[usage.Status4xx], observed), share(m.Status[usage.Status5xx], observed),
		millis(m.Mean()), millis(time.Duration(m.MaxMillis)*time.Millisecond), n(m.Slow), bytes(m.BytesIn), bytes(m.BytesOut))
}

// share is a part of a whole; what is not nothing never looks like it, nor what is not all like
// all.
func share(part, whole uint64) string {
	if whole == 0 {
		return "-"
	}
	percent := float64(part) / float64(whole) * 100
	switch {
	case part == 0:
		return "0 %"
	case part == whole:
		return "100 %"
	case percent < 0.1:
		return "<0.1 %"
	case percent > 99.9 && part < whole:
		return ">99.9 %"
	}
	return strconv.FormatFloat(percent, 'f', 1, 64) + " %"
}

func millis(d time.Duration) string {
	if d < 10*time.Second {
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	}
	return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
}

// bytes is a number of bytes in the largest unit of which there is one, of 1,024 each.
func bytes(n uint64) string {
	units, value := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}, float64(n)
	i := 0
	for ; value >= 1024 && i < len(units)-1; i++ {
		value /= 1024
	}
	if i == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return strconv.FormatFloat(value, 'f', 1, 64) + " " + units[i]
}

const barWidth = 24

// bar is a part of the longest bar, in eighths of a character.
func bar(n, most uint64) string {
	eighths := int(float64(n) / float64(most) * barWidth * 8)
	if n > 0 {
		eighths = max(eighths, 1)
	}
	text := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		text += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	return text
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// columns prints the first column and bars to the left, and the others, which are numbers, to the
// right.
func columns(w io.Writer, lines [][]string) error {
	var widths []int
	for _, line := range lines {
		for i, cell := range line {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	numbers := len(lines[0])
	if lines[0][numbers-1] == "" {
		numbers--
	}
	for _, line := range lines {
		var b strings.Builder
		for i, cell := range line {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			switch {
			case i == 0:
				b.WriteString(cell + pad)
			case i < numbers:
				b.WriteString("  " + pad + cell)
			default:
				b.WriteString("  " + cell)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(b.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}
