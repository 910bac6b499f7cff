// Package strictyaml reads YAML that somebody else has written. It is bounded before it is parsed,
// because the parser recurses and takes some hundred bytes a token. Anchors, aliases and merges,
// with which a short text can mean a long one, are refused or resolved (Tree).
package strictyaml

import (
	"errors"
	"fmt"
	"io"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
)

// Bounds says what of YAML a reader takes. The zero value of a number is no bound.
type Bounds struct {
	Bytes  int
	Depth  int  // how far lists and mappings nest
	Tokens int  // about 300 bytes of memory each
	Plain  bool // refuse anchors, aliases, tags, merges, directives and complex keys
	Twice  bool // leave it to the caller to find a field that is named twice
}

// Fault is what is wrong with a text, and where.
type Fault struct {
	Line, Column int // from 1
	Message      string
	Quotes       bool // Message is the parser's and may hold a part of the text
}

// Error returns the message.
func (f *Fault) Error() string { return f.Message }

// Parse parses a text whose first line has the number line. It must be UTF-8.
func Parse(text string, line int, b Bounds) (*ast.File, *Fault) {
	if b.Bytes > 0 && len(text) > b.Bytes {
		return nil, &Fault{Line: line, Column: 1, Message: fmt.Sprintf("%d bytes are more than the %d that are read", len(text), b.Bytes)}
	}
	tokens, fault := tokenize(text, line, b)
	if fault != nil {
		return nil, fault
	}
	var options []parser.Option
	if b.Twice {
		options = append(options, parser.AllowDuplicateMapKey())
	}
	file, err := parser.Parse(tokens, 0, options...)
	if err == nil {
		return file, nil
	}
	fault = &Fault{Line: line, Column: 1, Message: "the text does not fit"}
	var at interface {
		GetToken() *token.Token
		GetMessage() string
	}
	if errors.As(err, &at) {
		fault.Message, fault.Quotes = at.GetMessage(), true
		if t := at.GetToken(); t != nil && t.Position != nil {
			fault.Line, fault.Column = t.Position.Line, t.Position.Column
		}
	}
	return nil, fault
}

// tokenize stops at the first token that is over a bound.
func tokenize(text string, line int, b Bounds) (token.Tokens, *Fault) {
	var s scanner.Scanner
	s.Init(text)
	var all token.Tokens
	var n nesting
	for {
		some, err := s.Scan()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		for _, t := range some {
			t.Position.Line += line - 1
			n.add(t)
			switch {
			case b.Plain && !plain(t):
				return nil, faultAt(t, fmt.Sprintf("%q: anchors, aliases, tags, merges, directives and complex keys are not part of this file", t.Value))
			case b.Depth > 0 && n.depth() > b.Depth:
				return nil, faultAt(t, "nested too deep")
			case b.Tokens > 0 && len(all) >= b.Tokens:
				return nil, faultAt(t, fmt.Sprintf("more than the %d words and signs that are read", b.Tokens))
			}
			all.Add(t)
		}
	}
}

func faultAt(t *token.Token, message string) *Fault {
	return &Fault{Line: t.Position.Line, Column: t.Position.Column, Message: message}
}

func plain(t *token.Token) bool {
	switch t.Type {
	case token.AnchorType, token.AliasType, token.TagType, token.MergeKeyType, token.MappingKeyType, token.DirectiveType:
		return false
	}
	return true
}

// nesting follows how deep the parser will recurse at a token.
type nesting struct {
	flow    int   // open brackets and braces
	opened  int   // signs that begin something, one after the other: "- - ? !a &b"
	columns []int // of the lines around this one that are indented less, outside of brackets
	line    int   // of the last token
	anchor  bool  // the last token was an &, so this one is its name
}

func (n *nesting) depth() int { return n.flow + n.opened + len(n.columns) }

func (n *nesting) add(t *token.Token) {
	at := t.Position
	if n.flow == 0 && at.Line != n.line && t.Type != token.CommentType {
		for len(n.columns) > 0 && n.columns[len(n.columns)-1] >= at.Column {
			n.columns = n.columns[:len(n.columns)-1]
		}
		n.columns = append(n.columns, at.Column)
	}
	n.line = at.Line
	if n.anchor {
		n.anchor = false
		return
	}
	switch t.Type {
	case token.SequenceStartType, token.MappingStartType:
		n.flow++
		n.opened = 0
	case token.SequenceEndType, token.MappingEndType:
		n.flow = max(n.flow-1, 0)
		n.opened = 0
	case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
		n.opened++
		n.anchor = t.Type == token.AnchorType
	default:
		n.opened = 0
	}
}
