package transfer

import (
	"errors"
	"io"
	"strings"

	"tollgate/policy/keys/keyfile"
)

// readYAML reads the keys file item by item: neither does a large file have to fit into memory, nor
// does a fault in one item spoil the others. A file whose list is not one item a block is read as a
// whole.
func readYAML(r io.Reader, yield func(keyfile.Record, error) bool) {
	l := newLines(r)
	y := &items{yield: yield, indent: -1}
	refuse := func(r keyfile.Record, err error) bool {
		y.lost = y.lost || y.start != 0 // without this line the item says something else
		return yield(r, err)
	}
	l.each(refuse, func(line []byte) bool {
		if y.start != 0 && l.number > y.next {
			y.text.WriteString(strings.Repeat("\n", l.number-y.next)) // lines without text
		}
		y.next = l.number + 1
		return y.line(l.number, string(line))
	})
	y.flush()
}

type items struct {
	yield  func(keyfile.Record, error) bool
	text   strings.Builder // of the item that is read, or of the whole file
	start  int             // the line on which that begins; 0 = there is none
	next   int             // the line that is expected
	indent int             // of the list; -1 before its first item
	whole  bool
	lost   bool // a part of the item was left out, because it or a line of it is too long
	ended  bool // nobody wants more
}

// line takes one line; false ends the reading.
func (y *items) line(number int, s string) bool {
	trimmed := strings.TrimLeft(s, " ")
	indent := len(s) - len(trimmed)
	item := trimmed == "-" || strings.HasPrefix(trimmed, "- ") || strings.HasPrefix(trimmed, "-\t")
	switch {
	case y.whole:
	case strings.HasPrefix(trimmed, "#") && (y.indent < 0 || indent <= y.indent):
		s = "" // a comment between items
	case y.indent < 0 && y.start == 0 && (s == "---" || strings.HasPrefix(s, "%")):
		return true
	case y.indent < 0 && y.start == 0 && isListName(s):
		return true
	case item && (y.indent == indent || y.indent < 0 && y.start == 0):
		if !y.flush() {
			return false
		}
		y.indent = indent
	case y.indent < 0:
		y.whole = true
	case indent <= y.indent:
		if !y.flush() {
			return false
		}
		if s == "..." {
			return true
		}
		y.ended = !y.yield(keyfile.Record{Line: number}, errors.New("is not part of the list of keys"))
		return !y.ended
	}
	return y.add(number, s)
}

func isListName(s string) bool {
	rest, ok := strings.CutPrefix(s, "keys:")
	rest = strings.TrimLeft(rest, " \t")
	return ok && (rest == "" || rest[0] == '#')
}

func (y *items) add(number int, s string) bool {
	if y.start == 0 {
		if s == "" {
			return true
		}
		y.start = number
	}
	most := maxLine
	if y.whole {
		most = maxTree
	}
	if y.lost = y.lost || y.text.Len()+len(s) > most; y.lost {
		return true
	}
	y.text.WriteString(s)
	y.text.WriteByte('\n')
	return true
}

// flush hands over the item that is read.
func (y *items) flush() bool {
	if y.start == 0 || y.ended {
		return !y.ended
	}
	if y.lost {
		y.ended = !y.yield(keyfile.Record{Line: y.start}, errors.New("the item is too long"))
	} else {
		keyfile.ParseItem(y.text.String(), y.start, func(line int, e keyfile.Entry, err error) bool {
			y.ended = !y.yield(keyfile.Record{Line: line, Entry: e}, err)
			return !y.ended
		})
	}
	y.text.Reset()
	y.start, y.lost = 0, false
	return !y.ended
}
