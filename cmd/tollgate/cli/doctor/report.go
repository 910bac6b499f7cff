package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"tollgate/extauthz"
)

const (
	// askTimeout bounds one question to a server.
	askTimeout = 5 * time.Second
	// maxReport is the largest report that is read, in bytes: of 1,024 logs it has far less.
	maxReport = 16 << 20
)

// looks are the two reports of one server.
type looks struct {
	server        string
	before, after *extauthz.LogReport
	err           error // why one of them is missing
}

// reportURL returns where a server gives its report.
func reportURL(server string) (string, error) {
	u, err := url.Parse(server)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return "", errors.New("want a URL such as http://127.0.0.1:9002") // not repeated: it may hold a password
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", errors.New("want a URL without user, query and fragment")
	}
	return strings.TrimSuffix(server, "/") + "/access-logs", nil
}

// client asks servers. The zero value is ready.
type client struct{ http http.Client }

func (c *client) report(ctx context.Context, server string) (*extauthz.LogReport, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	address, err := reportURL(server)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	reply, err := c.http.Do(request)
	if err != nil {
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // the address is said already
		}
		return nil, err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %d to GET /access-logs: it is not the --http-address of a server, or one of a version before this one", reply.StatusCode)
	}
	text, err := io.ReadAll(io.LimitReader(reply.Body, maxReport+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxReport {
		return nil, fmt.Errorf("its report is larger than %d MiB", maxReport>>20)
	}
	report := &extauthz.LogReport{}
	if err := json.Unmarshal(text, report); err != nil {
		return nil, fmt.Errorf("its report cannot be read: %w", err)
	}
	if report.Time.IsZero() || report.LogName == "" {
		return nil, errors.New("what it answers is not a report of access logs")
	}
	return report, nil
}
