package check

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
)

const (
	maxLine    = 256 << 10 // bytes of a line of a decision log
	batch      = 1000      // decisions whose keys are read at once
	maxKeys    = 100_000   // keys that are remembered
	maxChanges = 1000      // kinds of changes that are told apart
)

// logged is a line of a decision log, as far as it is used.
type logged struct {
	Decision    string `json:"decision_id"`
	Reason      string `json:"reason"`
	Shadow      string `json:"shadow"`
	API         string `json:"api"`
	Route       string `json:"route"`
	Key         string `json:"key_id"`
	Plan        string `json:"plan"`
	Environment string `json:"environment"`
	Preflight   string `json:"preflight"`
	Method      string `json:"method"`
	Host        string `json:"host"`
	Path        string `json:"path"`
	Address     string `json:"address"`

	was policy.Reason
}

// change is decisions that other policies would change alike.
type change struct {
	API        string `json:"api"`
	Plan       string `json:"plan,omitempty"`
	Was        string `json:"was"`
	RouteWas   string `json:"route_was,omitempty"`
	Would      string `json:"would"`
	RouteWould string `json:"route_would,omitempty"`
	Place      string `json:"place,omitempty"` // file:line of the rule that decides
}

// changed counts them, and shows the first.
type changed struct {
	change
	Decisions int    `json:"decisions"`
	Example   string `json:"example"` // id of the first of them
	Request   string `json:"request,omitempty"`
	Key       string `json:"key,omitempty"`
}

// replay is what becomes of a log.
type replay struct {
	Judged   int        `json:"judged"`
	Changed  int        `json:"changed"`
	Changes  []*changed `json:"changes"`
	Others   int        `json:"others,omitempty"`   // decisions that would change in further ways
	ByRoute  int        `json:"by_route,omitempty"` // judged by the name of their route, without a path
	Unjudged int        `json:"unjudged,omitempty"` // the store or a broken record decided, or it was a preflight
	NoKey    int        `json:"no_key,omitempty"`   // their keys are no longer in the store
	Foreign  int        `json:"foreign,omitempty"`  // lines that are of no decision

	set    *policy.Set
	places *policyfile.Places
	keys   map[string]*keys.Key // nil for one that is not in the store
	byKind map[change]*changed
}

// again judges the decisions of a log by the policy.
func (o *options) again(ctx context.Context, cmd *cobra.Command, w *World) error {
	if err := w.Who.Check(roles.ActionView, "", ""); err != nil {
		return exit.Failed(exit.Plain(err))
	}
	set, places, err := policyfile.CompilePlaced(w.Files...)
	if err != nil {
		return exit.Failed(err)
	}
	in, err := open(o.replay, cmd.InOrStdin())
	if err != nil {
		return exit.Failed(err)
	}
	defer in.Close()
	r := &replay{set: set, places: places, keys: map[string]*keys.Key{}, byKind: map[change]*changed{}, Changes: []*changed{}}
	if err := r.read(ctx, store.New(w.Client), in); err != nil {
		return exit.Failed(fmt.Errorf("--replay %s: %w", o.replay, err))
	}
	if r.Judged == 0 {
		return exit.Failed(fmt.Errorf("--replay %s: no decision that could be judged; want lines of JSON as tollgate serve logs decisions", o.replay))
	}
	slices.SortStableFunc(r.Changes, func(a, b *changed) int { return cmp.Compare(b.Decisions, a.Decisions) })
	if o.output == output.Table {
		err = r.print(cmd.OutOrStdout())
	} else {
		err = o.output.Print(cmd.OutOrStdout(), r)
	}
	if err == nil && r.Changed > 0 {
		return &exit.Failure{}
	}
	return exit.Failed(err)
}

func open(name string, stdin io.Reader) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(stdin), nil
	}
	return os.Open(name)
}

// read judges each decision of a log.
func (r *replay) read(ctx context.Context, s *store.Store, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	var some []*logged
	n := 1
	for ; lines.Scan(); n++ {
		text := bytes.TrimSpace(lines.Bytes())
		if len(text) == 0 {
			continue
		}
		line, err := parse(text)
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		switch {
		case line == nil:
			r.Foreign++
		case line.Preflight != "" || !line.was.Judgeable():
			r.Unjudged++
		default:
			some = append(some, line)
		}
		if len(some) == batch {
			if err := r.judge(ctx, s, some); err != nil {
				return err
			}
			some = some[:0]
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("line %d: is longer than %d KiB, which no line of a decision is", n, maxLine>>10)
	case err != nil:
		return err
	}
	return r.judge(ctx, s, some)
}

// parse reads a line; nil is one that is of no decision.
func parse(text []byte) (*logged, error) {
	line := &logged{}
	if err := json.Unmarshal(text, line); err != nil {
		return nil, errors.New("is no JSON of a log") // not repeated: it may hold anything
	}
	if line.Decision == "" {
		return nil, nil
	}
	reason := cmp.Or(line.Shadow, line.Reason)
	was, known := policy.ParseReason(reason)
	if !known {
		return nil, fmt.Errorf("unknown reason %q", reason[:min(len(reason), 64)])
	}
	if line.was = was; was.Limited() {
		line.was = policy.Allowed // up to the counters, of which nothing is said here
	}
	if line.Method == policy.Hidden {
		line.Path = "" // of which it says nothing then: the route's name does
	}
	if line.Host == policy.Hidden {
		line.Host = ""
	}
	return line, nil
}

// judge judges some decisions, with their keys as the store has them now.
func (r *replay) judge(ctx context.Context, s *store.Store, some []*logged) error {
	if err := r.fetch(ctx, s, some); err != nil {
		return err
	}
	for _, line := range some {
		var k *keys.Key
		if line.ofKey() {
			if k = r.keys[line.Key]; k == nil {
				r.NoKey++
				continue
			}
			had := *k // and the plan of that time
			had.Plan, k = line.Plan, &had
		}
		past := policy.Past{API: line.API, Host: line.Host, Method: line.Method, Path: line.Path, Route: line.Route, Reason: line.was}
		past.Address, _ = netip.ParseAddr(line.Address) // one that is shown in part is not known
		r.Judged++
		if line.Path == "" {
			r.ByRoute++
		}
		r.note(line, r.set.Replay(past, k))
	}
	return nil
}

// ofKey reports whether the decision was about a known key: of others the log names a handle.
func (l *logged) ofKey() bool {
	return l.Plan != "" || l.Environment != "" || l.Key != "" && l.was.OfKey()
}

// fetch reads the keys that are not known yet.
func (r *replay) fetch(ctx context.Context, s *store.Store, some []*logged) error {
	if len(r.keys) > maxKeys {
		clear(r.keys)
	}
	var ids []string
	for _, line := range some {
		if _, known := r.keys[line.Key]; line.ofKey() && !known && keys.IDProblem(line.Key) == "" {
			ids, r.keys[line.Key] = append(ids, line.Key), nil
		}
	}
	if len(ids) == 0 {
		return nil
	}
	found, err := s.ReadAll(ctx, ids)
	if err != nil {
		return err
	}
	for i, f := range found {
		if f.Err == nil {
			r.keys[ids[i]] = f.Key
		}
	}
	return nil
}

// note counts a decision that would change.
func (r *replay) note(line *logged, now policy.Replayed) {
	if now.Reason == line.was && now.Route == line.Route {
		return
	}
	r.Changed++
	c := change{
		API: line.API, Plan: line.Plan, Was: line.was.String(), RouteWas: line.Route, Would: now.Reason.String(), RouteWould: now.Route,
		Place: placeOf(r.places, line.API, now.Rule),
	}
	known := r.byKind[c]
	switch {
	case known != nil:
		known.Decisions++
	case len(r.byKind) == maxChanges:
		r.Others++
	default:
		known = &changed{change: c, Decisions: 1, Example: line.Decision, Key: line.Key}
		if line.Path != "" {
			known.Request = line.Method + " " + line.Path
		}
		r.byKind[c] = known
		r.Changes = append(r.Changes, known)
	}
}

// print writes the replay for people.
func (r *replay) print(w io.Writer) error {
	rows := [][]string{{"DECISIONS", "API", "PLAN", "WAS", "WOULD BE", "PLACE", "EXAMPLE"}}
	for _, c := range r.Changes {
		example := c.Example
		for _, more := range []string{c.Request, c.Key} {
			if more != "" {
				example += " " + strconv.QuoteToASCII(more)
			}
		}
		rows = append(rows, []string{
			strconv.Itoa(c.Decisions), c.API, output.OrDash(c.Plan), with(c.Was, c.RouteWas), with(c.Would, c.RouteWould), output.OrDash(c.Place), example,
		})
	}
	if len(r.Changes) > 0 {
		if err := output.Columns(w, rows); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d of %s would change\n", r.Changed, output.Count(r.Judged, "decision"))
	for _, note := range []struct {
		n    int
		what string
	}{
		{r.Others, "more would change in further ways"},
		{r.ByRoute, "without a path, judged by the name of their route"},
		{r.NoKey, "not judged: their keys are no longer in the store"},
		{r.Unjudged, "not judged: no policy decided about them"},
		{r.Foreign, "lines of something else"},
	} {
		if note.n > 0 && err == nil {
			_, err = fmt.Fprintf(w, "%d %s\n", note.n, note.what)
		}
	}
	return err
}

// with is a reason and the route that it is about.
func with(reason, route string) string {
	if route == "" {
		return reason
	}
	return reason + " " + route
}
