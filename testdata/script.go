package testdata

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// maxTimes bounds `times`, so that a slip of the finger cannot stall a test run.
const maxTimes = 10000

// maxBeside bounds `beside`: each is a connection.
const maxBeside = 500

// defaultSource is the address a block comes from when it has no `from` line.
const defaultSource = "192.0.2.1"

// Block is one request of a script and the answer it must get.
//
// A Block as parsed still holds ${…} references; Expand puts the secrets in.
type Block struct {
	Name   string     // what stands after "---", without [demo]; unique in its script
	Demo   bool       // also sent by `tollgate-demo`: true at any time and from any loopback address
	Line   int        // 1-based line of the "---" line
	At     time.Time  // the now to inject, UTC; carried on from the last `at` line
	Source netip.Addr // the client's address as Envoy sees it; a v4-in-v6 form stays one
	Times  int        // how often to send it, at least 1; the last answer must be everything below
	Beside int        // how many like it are under way meanwhile, each of which must have been allowed

	Method  string
	Target  string      // raw path with query, as on the request line
	Headers [][2]string // in order, names as written, `host` among them; values may hold any bytes

	Status       int     // the policy's status; a gRPC client behind Envoy sees 200 and grpc-status instead
	WantHeaders  []Want  // of the response
	WantUpstream []Want  // what the application received; ":path" is the request target
	WantMeta     []Want  // dynamic metadata of the decision
	WantBody     *string // exact body; nil = not compared. ${request_id} stands for the response's x-request-id
}

// Want is one expectation: a field with an exact value, or its absence.
type Want struct {
	Name   string // lower case
	Value  string
	Absent bool
}

// Allowed reports whether the request must reach the application.
func (b *Block) Allowed() bool { return b.Status < 400 }

// Host returns the value of the block's host header.
func (b *Block) Host() string {
	for _, h := range b.Headers {
		if strings.EqualFold(h[0], "host") {
			return h[1]
		}
	}
	return ""
}

// GRPC reports whether Envoy treats the request as gRPC: the content type is
// exactly application/grpc, or application/grpc+ and a format. Such a client
// gets a denial as HTTP 200 with grpc-status, and the body as grpc-message.
func (b *Block) GRPC() bool {
	for _, h := range b.Headers {
		if strings.EqualFold(h[0], "content-type") {
			return h[1] == "application/grpc" || strings.HasPrefix(h[1], "application/grpc+")
		}
	}
	return false
}

// ParseScript reads a script. Errors read "script.txt:LINE: …"; it refuses
// everything it does not know, so that a misspelt expectation cannot pass as
// a comment.
func ParseScript(data []byte) ([]Block, error) {
	p := parser{names: map[string]int{}}
	for i, line := range strings.Split(string(data), "\n") {
		p.line = i + 1
		if err := p.parseLine(strings.TrimRight(line, " \t")); err != nil {
			return nil, fmt.Errorf("script.txt:%d: %w", p.line, err)
		}
	}
	if err := p.closeBlock(); err != nil {
		return nil, fmt.Errorf("script.txt:%d: %w", p.line, err)
	}
	if len(p.blocks) == 0 {
		return nil, fmt.Errorf("script.txt:%d: no block in the script", p.line)
	}
	return p.blocks, nil
}

// parser holds what one line leaves for the next.
type parser struct {
	blocks []Block
	block  *Block // the open block; nil before the first
	at     time.Time
	line   int
	names  map[string]int // block name → its line
}

func (p *parser) parseLine(line string) error {
	switch {
	case line == "" || strings.HasPrefix(line, "#"):
		return nil
	case strings.HasPrefix(line, "--- "):
		if err := p.closeBlock(); err != nil {
			return err
		}
		return p.openBlock(strings.TrimSpace(line[4:]))
	case p.block == nil:
		return fmt.Errorf("%q before the first block", line)
	}
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case ">":
		return p.parseRequest(rest)
	case "<":
		return p.parseWant(rest)
	case "at", "from", "times", "beside":
		if p.block.Method != "" {
			return fmt.Errorf("%q after the request", word)
		}
		return p.parseSetting(word, rest)
	}
	return fmt.Errorf("unknown directive %q", word)
}

func (p *parser) openBlock(name string) error {
	name, demo := strings.CutSuffix(name, "[demo]")
	name = strings.TrimSpace(name)
	if name == "" {
		return fmt.Errorf("a block without a name")
	}
	if first, ok := p.names[name]; ok {
		return fmt.Errorf("block %q stands at line %d already", name, first)
	}
	p.names[name] = p.line
	p.block = &Block{Name: name, Demo: demo, Line: p.line, Source: netip.MustParseAddr(defaultSource), Times: 1}
	return nil
}

// closeBlock checks what only the end of a block can tell; its errors stand at
// the block's own line.
func (p *parser) closeBlock() error {
	b := p.block
	if b == nil {
		return nil
	}
	b.At = p.at
	if err := b.check(); err != nil {
		p.line = b.Line
		return fmt.Errorf("block %q: %w", b.Name, err)
	}
	p.blocks = append(p.blocks, *b)
	p.block = nil
	return nil
}

func (b *Block) check() error {
	switch {
	case b.Method == "":
		return fmt.Errorf("no request")
	case b.Status == 0:
		return fmt.Errorf("no status")
	case b.hostLines() != 1:
		return fmt.Errorf("%d host lines, want one", b.hostLines())
	case b.At.IsZero():
		return fmt.Errorf("no `at` in it or above it")
	case !b.Allowed() && b.WantBody == nil:
		return fmt.Errorf("a denial without a body line")
	case !b.Allowed() && len(b.WantUpstream) > 0:
		return fmt.Errorf("a denial never reaches the upstream")
	case b.Demo && (b.Times != 1 || b.Beside != 0):
		return fmt.Errorf("a [demo] block is sent once, and alone")
	case b.Beside != 0 && b.Times != 1:
		return fmt.Errorf("a block with beside is sent once")
	case b.Demo && b.Source != netip.MustParseAddr(defaultSource):
		return fmt.Errorf("a [demo] block cannot choose its source address")
	}
	return nil
}

func (b *Block) hostLines() int {
	n := 0
	for _, h := range b.Headers {
		if strings.EqualFold(h[0], "host") {
			n++
		}
	}
	return n
}

func (p *parser) parseSetting(word, value string) error {
	var err error
	switch word {
	case "at":
		at, perr := time.Parse(time.RFC3339Nano, value)
		if perr == nil && at.Before(p.at) {
			return fmt.Errorf("at %s is before the last one", value)
		}
		p.at, err = at.UTC(), perr
	case "from":
		p.block.Source, err = netip.ParseAddr(value)
	case "times":
		p.block.Times, err = strconv.Atoi(value)
		if err == nil && (p.block.Times < 1 || p.block.Times > maxTimes) {
			return fmt.Errorf("times %s, want 1 to %d", value, maxTimes)
		}
	case "beside":
		p.block.Beside, err = strconv.Atoi(value)
		if err == nil && (p.block.Beside < 1 || p.block.Beside > maxBeside) {
			return fmt.Errorf("beside %s, want 1 to %d", value, maxBeside)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %q: %w", word, value, err)
	}
	return nil
}

func (p *parser) parseRequest(rest string) error {
	b := p.block
	if b.Status != 0 {
		return fmt.Errorf("a request line after an expectation")
	}
	if b.Method == "" {
		method, target, ok := strings.Cut(rest, " ")
		if !ok || method == "" || !strings.HasPrefix(target, "/") || strings.ContainsAny(target, " \t#") {
			return fmt.Errorf("request line %q, want METHOD /path", rest)
		}
		b.Method, b.Target = method, target
		return nil
	}
	name, value, err := parseField(rest)
	if err != nil {
		return err
	}
	if strings.Contains(name, "_") {
		return fmt.Errorf("header %s: our Envoys refuse header names with an underscore", name)
	}
	if value, err = unescape(value); err != nil {
		return fmt.Errorf("header %s: %w", name, err)
	}
	b.Headers = append(b.Headers, [2]string{name, value})
	return nil
}

func (p *parser) parseWant(rest string) error {
	b := p.block
	if b.Method == "" {
		return fmt.Errorf("an expectation before the request")
	}
	if b.Status == 0 {
		status, err := strconv.Atoi(rest)
		if err != nil || len(rest) != 3 || status < 200 || status > 599 {
			return fmt.Errorf("%q, want the status first", rest)
		}
		b.Status = status
		return nil
	}
	word, value, _ := strings.Cut(rest, " ")
	switch word {
	case "body":
		if b.WantBody != nil {
			return fmt.Errorf("a second body")
		}
		b.WantBody = &value
		return nil
	case "upstream":
		return addWant(&b.WantUpstream, value)
	case "meta":
		return addWant(&b.WantMeta, value)
	}
	return addWant(&b.WantHeaders, rest)
}

// addWant parses "name: value", "!name" or ":path value".
func addWant(wants *[]Want, text string) error {
	var w Want
	if name, ok := strings.CutPrefix(text, "!"); ok {
		if !isName(name) {
			return fmt.Errorf("%q is no field name", name)
		}
		w = Want{Name: strings.ToLower(name), Absent: true}
	} else if path, ok := strings.CutPrefix(text, ":path "); ok {
		w = Want{Name: ":path", Value: path}
	} else {
		name, value, err := parseField(text)
		if err != nil {
			return err
		}
		w = Want{Name: strings.ToLower(name), Value: value}
	}
	for _, other := range *wants {
		if other.Name == w.Name {
			return fmt.Errorf("a second expectation of %q", w.Name)
		}
	}
	*wants = append(*wants, w)
	return nil
}

// parseField splits "name: value"; the value keeps every space but the first.
func parseField(text string) (name, value string, err error) {
	name, value, ok := strings.Cut(text, ":")
	if !ok || !isName(name) {
		return "", "", fmt.Errorf("%q, want NAME: VALUE", text)
	}
	if value != "" && value[0] != ' ' {
		return "", "", fmt.Errorf("%q, want a space after the colon", text)
	}
	return name, strings.TrimPrefix(value, " "), nil
}

// isName reports whether s can be a header or a metadata name.
func isName(s string) bool {
	for _, c := range s {
		if !strings.ContainsRune("-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", c) {
			return false
		}
	}
	return s != ""
}

// unescape resolves \xHH, \t and \\ of a header value.
func unescape(s string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		i++
		switch {
		case i < len(s) && s[i] == '\\':
			out.WriteByte('\\')
		case i < len(s) && s[i] == 't':
			out.WriteByte('\t')
		case i+2 < len(s) && s[i] == 'x':
			n, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				return "", fmt.Errorf("bad escape in %q", s)
			}
			out.WriteByte(byte(n))
			i += 2
		default:
			return "", fmt.Errorf("bad escape in %q", s)
		}
	}
	return out.String(), nil
}
