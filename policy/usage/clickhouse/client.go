// Package clickhouse keeps the history of usage in ClickHouse, for who wants it finer or longer
// than Redis has it: Writer sends what package ledger has added to Redis, Reader answers the same
// questions from there, and Schema is what an operator creates first. Decisions adds the lines of
// the decision log to a table of their own. It speaks ClickHouse's HTTP interface, and knows no
// Redis.
package clickhouse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// dialTimeout bounds a new connection, its TLS included.
	dialTimeout = 5 * time.Second
	// maxMessage is how much of ClickHouse's own words an error repeats, in bytes.
	maxMessage = 300
	// maxReply bounds the answer to a question: a hundred bytes for each key of an API.
	maxReply = 256 << 20
)

// Client reaches one ClickHouse. It is safe for concurrent use.
type Client struct {
	address  string // without credentials
	host     string
	database string
	user     string
	password string
	http     *http.Client
}

var (
	errURL      = errors.New("want http://[USER@]HOST[:PORT][/DATABASE], or https://") // not repeated: it could hold a password
	errPassword = errors.New("a URL is no place for a password; give it in a file of its own")
	errReply    = errors.New("its answer cannot be read")
)

// Open returns a Client for a URL, http or https://[USER@]HOST[:PORT][/DATABASE], and the user's
// password. It connects when it is used. No error holds the password.
func Open(address, password string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, errURL
	}
	if _, has := u.User.Password(); has {
		return nil, errPassword
	}
	database := strings.TrimPrefix(u.Path, "/")
	if strings.Contains(database, "/") {
		return nil, errURL
	}
	// No proxy: the password is for this address alone.
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       time.Minute,
		MaxConnsPerHost:       4,
	}
	return &Client{
		address: u.Scheme + "://" + u.Host + "/", host: u.Host, database: database, user: u.User.Username(), password: password,
		// A redirect would take the password to another place.
		http: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Host returns the host and port, for messages.
func (c *Client) Host() string { return c.host }

// do runs a query and returns its answer. Values are those of the query's {name:Type}; they never
// become part of its text.
func (c *Client) do(ctx context.Context, query string, options, values map[string]string, body []byte) ([]byte, error) {
	fail := func(err error) error { return fmt.Errorf("clickhouse %s: %w", c.host, err) }
	// What we ask is not worth a line in its own log; an error must not come after a 200.
	args := url.Values{"query": {query}, "log_queries": {"0"}, "wait_end_of_query": {"1"}}
	if c.database != "" {
		args.Set("database", c.database)
	}
	for name, value := range options {
		args.Set(name, value)
	}
	for name, value := range values {
		args.Set("param_"+name, escaped(value))
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address+"?"+args.Encode(), bytes.NewReader(body))
	if err != nil {
		return nil, fail(errURL)
	}
	if c.user != "" {
		request.Header.Set("X-ClickHouse-User", c.user)
	}
	if c.password != "" {
		request.Header.Set("X-ClickHouse-Key", c.password)
	}
	reply, err := c.http.Do(request)
	if err != nil {
		if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
			err = wrapped.Err // without the URL, which repeats the query
		}
		return nil, fail(err)
	}
	defer reply.Body.Close()
	code := reply.Header.Get("X-ClickHouse-Exception-Code")
	if reply.StatusCode != http.StatusOK || code != "" && code != "0" {
		return nil, fail(refusal(reply, code))
	}
	data, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	if err == nil && len(data) > maxReply {
		err = errReply
	}
	if err != nil {
		return nil, fail(err)
	}
	return data, nil
}

// refusal says why ClickHouse has not done what it was asked, in its words.
func refusal(reply *http.Response, code string) error {
	said, _ := io.ReadAll(io.LimitReader(reply.Body, maxMessage))
	text := "HTTP status " + strconv.Itoa(reply.StatusCode)
	if code != "" {
		text += ", code " + code
	}
	if words := strings.TrimSpace(strings.ToValidUTF8(string(said), "")); words != "" {
		text += ": " + strconv.Quote(words) // quoted, so that it stays in its line
	}
	return errors.New(text)
}

// escaped writes a value as ClickHouse reads parameters: in its format TabSeparated.
func escaped(value string) string {
	return strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\b", `\b`, "\f", `\f`, "\x00", `\0`).Replace(value)
}
