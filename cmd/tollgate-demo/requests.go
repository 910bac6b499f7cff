package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"tollgate/envoy/envoytest"
	"tollgate/testdata"
)

// shotTimeout bounds one request of the demo.
const shotTimeout = 5 * time.Second

// shot is one request of the demo with the answer that it must get.
type shot struct {
	api   string
	block testdata.Block
}

// send sends the request through Envoy.
func (s *shot) send(ctx context.Context, addr string) (*envoytest.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, shotTimeout)
	defer cancel()
	r := envoytest.Request{Method: s.block.Method, Target: s.block.Target, Host: s.block.Host(), Headers: s.headers()}
	return r.SendH1(ctx, addr, false)
}

// headers returns the headers without host.
func (s *shot) headers() [][2]string {
	var out [][2]string
	for _, h := range s.block.Headers {
		if !strings.EqualFold(h[0], "host") {
			out = append(out, h)
		}
	}
	return out
}

// expected returns the status and the API's code for it, such as "401 UNAUTHORIZED".
func (s *shot) expected() string {
	if s.block.WantBody == nil {
		return fmt.Sprint(s.block.Status)
	}
	return answerName(s.block.Status, []byte(*s.block.WantBody))
}

// right reports whether the answer is the expected one.
func (s *shot) right(got *envoytest.Response) bool {
	if got.Status != s.block.Status {
		return false
	}
	if s.block.WantBody == nil {
		return true
	}
	return comparable429(got.Status, s.wantBody(got)) == comparable429(got.Status, string(got.Body))
}

// wantBody returns the body that goes with the request id of this answer.
func (s *shot) wantBody(got *envoytest.Response) string {
	id, _ := got.Value("x-request-id")
	return strings.ReplaceAll(*s.block.WantBody, "${request_id}", id)
}

// comparable429 replaces the seconds to wait in the body of a 429, the one thing
// in an answer that the moment decides.
func comparable429(status int, body string) string {
	if status != 429 {
		return body
	}
	body = regexp.MustCompile(`(?i)(retry[^0-9]{0,24})[0-9]+`).ReplaceAllString(body, "${1}N")
	return regexp.MustCompile(`[0-9]+( seconds?)`).ReplaceAllString(body, "N${1}")
}

// answerName returns the status of an answer and the code that its body names,
// for a denial's body in any of the three dialects.
func answerName(status int, body []byte) string {
	var b struct {
		Type  string `json:"type"`
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if status < 400 || json.Unmarshal(body, &b) != nil {
		return fmt.Sprint(status)
	}
	code := b.Error.Code
	if code == "" {
		code = b.Type[strings.LastIndexByte(b.Type, '/')+1:]
	}
	return strings.TrimSpace(fmt.Sprint(status, " ", code))
}

// check sends all requests and prints what came back. Wrong answers are an error
// that the table has told already.
func (d *demo) check(ctx context.Context, took time.Duration) error {
	good, bad := "✓", "✗"
	if isTerminal(d.out) {
		good, bad = "\x1b[32m✓\x1b[0m", "\x1b[31m✗\x1b[0m"
	}
	var wrong bytes.Buffer
	wrongs := 0
	table := tabwriter.NewWriter(d.out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "API\tREQUEST\t\tEXPECTED\tGOT\t")
	for i := range d.shots {
		s := &d.shots[i]
		got, err := s.send(ctx, d.envoy.Addr())
		if ctx.Err() != nil {
			return fmt.Errorf("stopped after %d of %d requests", i, len(d.shots))
		}
		mark, answer := good, ""
		switch {
		case err != nil:
			mark, answer = bad, "no answer"
			_, _ = fmt.Fprintf(&wrong, "\n%s, %s:\n  %v\n", s.api, s.block.Name, err)
		case !s.right(got):
			mark, answer = bad, answerName(got.Status, got.Body)
			_, _ = fmt.Fprintf(&wrong, "\n%s, %s:\n%s", s.api, s.block.Name, s.difference(got))
		default:
			answer = answerName(got.Status, got.Body)
		}
		if mark == bad {
			wrongs++
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s %s\t%s\t%s\t%s\n",
			s.api, s.block.Name, s.block.Method, printTarget(s.block.Target), s.expected(), answer, mark)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(d.out, "%s\n%d of %d answers are right. The first came after %s.\n",
		wrong.String(), len(d.shots)-wrongs, len(d.shots), seconds(took))
	if err == nil && wrongs > 0 {
		return errWrong
	}
	return err
}

// difference says what a wrong answer should have been.
func (s *shot) difference(got *envoytest.Response) string {
	text := fmt.Sprintf("  expected %d", s.block.Status)
	if s.block.WantBody != nil {
		text += " " + s.wantBody(got)
	}
	return fmt.Sprintf("%s\n  got      %d %s\n", text, got.Status, bytes.TrimSpace(got.Body))
}

// show prints the curl lines.
func (d *demo) show(took time.Duration) error {
	var b bytes.Buffer
	base := "http://" + d.envoy.Addr()
	fmt.Fprintf(&b, "Four APIs are served by Envoy on %s. The first answer came after %s.\n", base, seconds(took))
	if d.port != 0 && !strings.HasSuffix(base, fmt.Sprintf(":%d", d.port)) {
		fmt.Fprintf(&b, "(Port %d is taken by another process.)\n", d.port)
	}
	b.WriteString("Paste a line into another terminal. Ctrl-C ends everything.\n")
	api := ""
	for i := range d.shots {
		s := &d.shots[i]
		if s.api != api {
			api = s.api
			fmt.Fprintf(&b, "\n%s\n%s\n", api, strings.Repeat("-", len(api)))
		}
		fmt.Fprintf(&b, "# %s: %s\n%s\n", s.expected(), s.block.Name, s.curl(base))
	}
	_, err := d.out.Write(b.Bytes())
	return err
}

// curl returns the request as a curl command line.
func (s *shot) curl(base string) string {
	words := []string{"curl", "-i"}
	switch s.block.Method {
	case "GET":
	case "HEAD": // with -X, curl would wait for a body
		words[1] = "-I"
	default:
		words = append(words, "-X", shellQuote(s.block.Method))
	}
	if strings.Contains(s.block.Target, "/.") {
		words = append(words, "--path-as-is")
	}
	if strings.ContainsAny(s.block.Target, "[]{}") {
		words = append(words, "-g")
	}
	words = append(words, "-H", shellQuote("Host: "+s.block.Host()))
	for _, h := range s.headers() {
		line := h[0] + ": " + h[1]
		if h[1] == "" {
			line = h[0] + ";" // curl's way to send an empty header
		}
		words = append(words, "-H", shellQuote(line))
	}
	return strings.Join(append(words, shellQuote(base+s.block.Target)), " ")
}

// shellQuote returns s as one word of a POSIX shell, or of bash and zsh where it
// holds bytes that are not printable ASCII.
func shellQuote(s string) string {
	printable, plain := true, s != ""
	for i := range len(s) {
		c := s[i]
		printable = printable && c >= ' ' && c < 0x7f
		plain = plain && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.IndexByte("-_./:=", c) >= 0)
	}
	if plain {
		return s
	}
	if printable {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		switch c := s[i]; {
		case c == '\'' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= ' ' && c < 0x7f:
			b.WriteByte(c)
		default:
			// Octal has a fixed length: a digit may follow.
			fmt.Fprintf(&b, `\%03o`, c)
		}
	}
	b.WriteString("'")
	return b.String()
}

// printTarget returns a request target without its query, which can hold a key
// and would stretch the table.
func printTarget(target string) string {
	path, _, query := strings.Cut(target, "?")
	if query {
		path += "?…"
	}
	return path
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// isTerminal reports whether w is a terminal that wants colour.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
