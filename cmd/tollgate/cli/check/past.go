package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"

	"github.com/spf13/cobra"

	failures "tollgate/cmd/tollgate/cli/errors"
	"tollgate/cmd/tollgate/cli/output"
	"tollgate/cmd/tollgate/exit"
	"tollgate/policy"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
	"tollgate/policy/policyfile"
)

// past is a decision that the error log tells of, for programs by its tags.
type past struct {
	API string `json:"api"`
	failures.Row
	// The places in the policy, file:line, of the route and of the answer.
	RoutePlace  string `json:"route_place,omitempty"`
	AnswerPlace string `json:"answer_place,omitempty"`
	// Now is what the policy and the key as they are make of it; nil where that cannot be said.
	Now *today `json:"now,omitempty"`
}

// today is a verdict up to the limits, of which nothing is said.
type today struct {
	Reason string `json:"reason"`
	Place  string `json:"place,omitempty"` // file:line of the rule that decides
}

// lookBack explains a decision of the error log.
func (o *options) lookBack(ctx context.Context, cmd *cobra.Command, w *World) error {
	set, places, err := policyfile.CompilePlaced(w.Files...)
	if err != nil {
		return exit.Failed(err)
	}
	var apis []string
	for _, api := range set.APIs() {
		if o.api == "" || o.api == api.Name() {
			apis = append(apis, api.Name())
		}
	}
	if len(apis) == 0 {
		return exit.Failed(fmt.Errorf("--api: the policy has no %q", o.api))
	}
	e, err := journal.NewReader(w.Client).Find(ctx, apis, o.decision)
	if err == nil && e == nil {
		err = errors.New("--decision: the error log has none with this id; of requests that are refused alike it keeps one a second, and the last hundred of a key")
	}
	if err != nil {
		return exit.Failed(exit.Plain(err))
	}
	k, err := keyNow(ctx, store.New(w.Client), e.Key)
	if err != nil {
		return exit.Failed(exit.Plain(err))
	}
	team := ""
	if k != nil {
		team = k.Team
	}
	if err := w.Who.Check(roles.ActionUsage, e.API, team); err != nil {
		return exit.Failed(exit.Plain(err))
	}
	found := pastOf(e, places)
	found.Now = judgedNow(e, set, places, k)
	if o.output == output.Table {
		return exit.Failed(found.print(cmd.OutOrStdout()))
	}
	return exit.Failed(o.output.Print(cmd.OutOrStdout(), found))
}

// keyNow returns the key as it is, nil if there is none, or none any more.
func keyNow(ctx context.Context, s *store.Store, id string) (*keys.Key, error) {
	if id == "" {
		return nil, nil
	}
	found, err := s.ReadAll(ctx, []string{id})
	if err != nil || found[0].Err != nil {
		return nil, err
	}
	return found[0].Key, nil
}

func pastOf(e *errorlog.Entry, places *policyfile.Places) *past {
	p := &past{API: e.API, Row: failures.RowOf(e)}
	if e.Route != "" {
		p.RoutePlace = placeOf(places, e.API, policy.Rule{Section: policy.RoutesSection, Name: e.Route})
	}
	if e.Reason != errorlog.Upstream {
		p.AnswerPlace = placeOf(places, e.API, policy.Rule{Section: policy.AnswersSection, Name: e.Reason})
	}
	return p
}

// judgedNow judges the request once more, by what is known of it.
func judgedNow(e *errorlog.Entry, set *policy.Set, places *policyfile.Places, k *keys.Key) *today {
	was, known := policy.ParseReason(e.Reason)
	if e.Reason == errorlog.Upstream {
		was, known = policy.Allowed, true
	}
	if !known || !was.Judgeable() || e.Key != "" && k == nil {
		return nil
	}
	if was.Limited() {
		was = policy.Allowed
	}
	p := policy.Past{API: e.API, Route: e.Route, Reason: was}
	p.Address, _ = netip.ParseAddr(e.Address) // one that is shown in part is not known
	verdict := set.Replay(p, k)
	return &today{verdict.Reason.String(), placeOf(places, e.API, verdict.Rule)}
}

// print writes it for people.
func (p *past) print(w io.Writer) error {
	var rows [][]string
	add := func(name, value, place string) {
		if place != "" {
			value += ", " + place
		}
		if value != "" {
			rows = append(rows, []string{name, value})
		}
	}
	reason := p.Reason
	if p.Code != 0 {
		reason += " (" + strconv.Itoa(p.Code) + ")"
	}
	add("decision", p.Decision, "")
	add("time", output.Time(p.Time), "")
	add("api", p.API, "")
	add("key", p.Key, "")
	add("unknown key", p.UnknownAs, "")
	add("route", p.Route, p.RoutePlace)
	add("reason", reason, p.AnswerPlace)
	add("address", p.Address, "")
	add("request", p.Request, "")
	if p.More > 0 {
		add("alike", fmt.Sprintf("%d more until %s", p.More, output.Time(p.Until)), "")
	}
	if p.Now != nil {
		reason := p.Now.Reason
		if reason == policy.Allowed.String() {
			reason += " unless a limit refuses it"
		}
		add("now", reason, p.Now.Place)
	}
	return output.Columns(w, rows)
}
