package alerts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Text is a message for people.
type Text struct {
	Headline string
	Lines    []Line // the members of its data, in their order
}

// Line is one of them.
type Line struct{ Name, Value string }

var errMessage = errors.New("the message cannot be read")

// ReadMessage reads the body of a message.
func ReadMessage(body []byte) (t Text, err error) {
	var message struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &message); err != nil || message.Type == "" {
		return t, errMessage
	}
	t.Headline = headline(message.Type)
	d := json.NewDecoder(bytes.NewReader(message.Data))
	d.UseNumber()
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return t, errMessage
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return t, errMessage
		}
		value, err := d.Token()
		if _, nested := value.(json.Delim); err != nil || nested {
			return t, errMessage
		}
		t.Lines = append(t.Lines, Line{strings.ReplaceAll(fmt.Sprint(name), "_", " "), fmt.Sprint(value)})
	}
	return t, nil
}

// About returns the value of a line, "" if there is none.
func (t *Text) About(name string) string {
	for _, l := range t.Lines {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}
