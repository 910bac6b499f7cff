// Package transfer reads keys in every format that `tollgate keys import` takes: YAML, JSON Lines
// and CSV in the words of the keys file, Kubernetes Secrets of Authorino and of Envoy Gateway, and
// Kong's declarative configuration. It writes nothing and knows no store; admin.Manager.Import
// takes what it reads.
package transfer

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"path/filepath"
	"strings"
	"time"

	"tollgate/policy/keys"
	"tollgate/policy/keys/keyfile"
)

// Format is a way in which keys are written down.
type Format string

// The formats that Read knows.
const (
	YAML         Format = "yaml"          // the keys file
	JSONLines    Format = "jsonl"         // one JSON object a line, with the names of the keys file
	CSV          Format = "csv"           // a first line with the names of the keys file
	Authorino    Format = "authorino"     // Kubernetes Secrets with an entry api_key, YAML or JSON
	EnvoyGateway Format = "envoy-gateway" // Kubernetes Secrets whose entries are client id and key, YAML or JSON
	Kong         Format = "kong"          // keyauth_credentials of a declarative configuration, YAML or JSON
)

// Formats returns the names of all formats.
func Formats() []Format { return []Format{YAML, JSONLines, CSV, Authorino, EnvoyGateway, Kong} }

// ParseFormat reads the name of a format. Its error names them all.
func ParseFormat(s string) (Format, error) {
	for _, f := range Formats() {
		if string(f) == s {
			return f, nil
		}
	}
	return "", fmt.Errorf("transfer: %q is not one of %v", s, Formats())
}

// FormatOf guesses by the end of a file's name; ok is false where it cannot: "" and names without a
// known end.
func FormatOf(name string) (f Format, ok bool) {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".yaml", ".yml":
		return YAML, true
	case ".jsonl", ".ndjson":
		return JSONLines, true
	case ".csv":
		return CSV, true
	}
	return "", false
}

// Options says what the formats of other systems leave open.
type Options struct {
	// AsOf is when the source was written, from which Kong's ttl counts where a credential has no
	// created_at. A file's time of modification is a good one, because the same import gives the
	// same expiry again. Zero: such a credential is refused.
	AsOf time.Time
	// Labels says which label or annotation of a Kubernetes Secret of Authorino's holds a field:
	// team, plan, environment, scopes, name or note. Where it has no entry for team and plan, they
	// are Kuadrant's secret.kuadrant.io/user-id and secret.kuadrant.io/plan-id; an empty name is
	// none.
	Labels map[string]string
	// Groups says which scopes an ACL group of Kong's stands for, joined with |. A key whose
	// consumer is in a group that is not here is refused.
	Groups map[string]string
	// Drop names plugins of Kong's that keys lose, because the policy does what they did. Without
	// that, a key that a plugin narrows in a way that no key of ours can be narrowed in is refused.
	Drop []string
	// API keeps the counters apart that the keys of one consumer of Kong's share.
	API string
}

// maxLine is the longest line or item of the keys file, in bytes.
const maxLine = 1 << 20

// Read returns the keys of a source in its order, each with its line, counted from 1. The error of
// a record concerns that record alone, unless it is a keyfile.ErrSource, which is the last. No
// error holds a secret. The records can be read once.
func Read(f Format, r io.Reader, o Options) iter.Seq2[keyfile.Record, error] {
	return func(yield func(keyfile.Record, error) bool) {
		switch f {
		case YAML:
			readYAML(r, yield)
		case JSONLines:
			readLines(r, yield)
		case CSV:
			readCSV(r, yield)
		case Authorino, EnvoyGateway:
			readSecrets(r, f, o, yield)
		case Kong:
			readKong(r, o, yield)
		default:
			yield(keyfile.Record{}, broken(fmt.Errorf("%q is not one of %v", string(f), Formats())))
		}
	}
}

func broken(err error) error { return fmt.Errorf("%w: %w", keyfile.ErrSource, err) }

// Summary is what is known of a source before its keys are read.
type Summary struct {
	SHA256  string // hexadecimal
	Bytes   int64
	Records int // at most; 0 = not known
}

// Survey reads a source once to its end. For YAML, JSON Lines and CSV it counts the records without
// looking at them.
func Survey(f Format, r io.Reader) (Summary, error) {
	sum := sha256.New()
	lines := newLines(io.TeeReader(r, sum))
	s := Summary{}
	for {
		line, err := lines.next()
		s.Bytes += int64(lines.size)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, errLong) {
			return Summary{}, err
		}
		text := strings.TrimSpace(string(line))
		if f == YAML && strings.HasPrefix(text, "- ") || f != YAML && text != "" {
			s.Records++
		}
	}
	switch f {
	case CSV:
		s.Records = max(s.Records-1, 0)
	case Authorino, EnvoyGateway, Kong:
		s.Records = 0
	}
	s.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return s, nil
}

var errLong = errors.New("the line is longer than 1 MiB")

// lines cuts a source into lines of bounded length.
type lines struct {
	r      *bufio.Reader
	number int // of the line that next returned last, from 1
	size   int // its bytes, with its end
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, 64<<10)} }

// next returns a line without its end, which is valid until the next call. Errors: io.EOF after the
// last; errLong for a line that is left out.
func (l *lines) next() ([]byte, error) {
	var long []byte
	l.size = 0
	for tooLong := false; ; {
		part, err := l.r.ReadSlice('\n')
		l.size += len(part)
		if err == nil || errors.Is(err, io.EOF) && l.size > 0 {
			l.number++
			if tooLong || l.size > maxLine {
				return nil, errLong
			}
			if long != nil {
				part = append(long, part...)
			}
			return trimEnd(part), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if tooLong = tooLong || l.size > maxLine; tooLong {
			long = nil
		} else {
			long = append(long, part...)
		}
	}
}

func trimEnd(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// each calls take for every line that has text until it returns false; a line that is too long is
// refused.
func (l *lines) each(yield func(keyfile.Record, error) bool, take func(line []byte) bool) {
	for {
		line, err := l.next()
		switch {
		case errors.Is(err, io.EOF):
			return
		case errors.Is(err, errLong):
			if !yield(keyfile.Record{Line: l.number}, err) {
				return
			}
			continue
		case err != nil:
			yield(keyfile.Record{Line: l.number}, broken(err))
			return
		}
		if l.number == 1 {
			line = []byte(strings.TrimPrefix(string(line), "\ufeff"))
		}
		if len(strings.TrimSpace(string(line))) > 0 && !take(line) {
			return
		}
	}
}

// record turns the fields of one key into what Import takes.
func record(line int, f *keyfile.Fields) (keyfile.Record, error) {
	e, err := f.Entry()
	if err != nil {
		// The id tells people which one it was; Import shows it only if it is one.
		return keyfile.Record{Line: line, Entry: keyfile.Entry{Key: keys.Key{ID: f.ID}}}, err
	}
	return keyfile.Record{Line: line, Entry: e}, nil
}

func readLines(r io.Reader, yield func(keyfile.Record, error) bool) {
	l := newLines(r)
	l.each(yield, func(line []byte) bool {
		f, err := keyfile.ParseFields(line)
		if err != nil {
			return yield(keyfile.Record{Line: l.number}, err)
		}
		return yield(record(l.number, &f))
	})
}
