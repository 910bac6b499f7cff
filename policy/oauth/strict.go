package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is more than a token or a set of keys nests.
const maxDepth = 16

// object reads a JSON object that every parser reads alike: UTF-8 without halves of surrogate
// pairs, no member named twice at any depth, nothing behind it.
func object(data []byte) (map[string]json.RawMessage, error) {
	if !utf8.Valid(data) || halfSurrogate(data) {
		return nil, errors.New("a text in it is not Unicode")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	if err := walk(d, true, 1); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return nil, errors.New("it is not a JSON object")
	}
	return members, nil
}

// walk reads what an object or a list has, up to its end.
func walk(d *json.Decoder, named bool, depth int) error {
	if depth > maxDepth {
		return errors.New("it is nested too deeply")
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if name, ok := t.(string); err == nil && named && ok {
			if seen[name] {
				return errors.New("a member is named twice")
			}
			seen[name] = true
			t, err = d.Token()
		}
		if err != nil {
			return errors.New("it is not JSON")
		}
		if open, ok := t.(json.Delim); ok {
			if err := walk(d, open == '{', depth+1); err != nil {
				return err
			}
		}
	}
	if _, err := d.Token(); err != nil {
		return errors.New("it is not JSON")
	}
	return nil
}

// halfSurrogate reports whether an escape stands for half of a pair without the other, which
// parsers replace, keep or refuse. In JSON a backslash stands in texts alone.
func halfSurrogate(data []byte) bool {
	for i := 0; i < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		r, ok := escape(data[i:])
		if !ok {
			i++ // another escape, of one character
			continue
		}
		i += 5
		if !utf16.IsSurrogate(r) {
			continue
		}
		low, ok := escape(data[i+1:])
		if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
			return true
		}
		i += 6
	}
	return false
}

// escape reads \uXXXX at the start of data.
func escape(data []byte) (rune, bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(n), err == nil
}
