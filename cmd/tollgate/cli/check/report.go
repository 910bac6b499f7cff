package check

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"tollgate/cmd/tollgate/cli/output"
	"tollgate/extauthz"
	"tollgate/policy"
	"tollgate/policy/policyfile"
	"tollgate/policy/router"
)

// report is what is printed, for programs by its tags.
type report struct {
	Request string  `json:"request"` // method and path, without the query
	Allowed bool    `json:"allowed"`
	Reason  string  `json:"reason"`
	Shadow  string  `json:"shadow,omitempty"` // why it would be denied, if only shadow_mode allows it
	Steps   []step  `json:"steps"`
	Limits  []count `json:"limits,omitempty"`
	// Reply is what the client gets of a request that is denied, Pass what becomes of one that is
	// allowed.
	Reply *reply `json:"reply,omitempty"`
	Pass  *pass  `json:"pass,omitempty"`
}

type step struct {
	Name    string         `json:"step"`
	Verdict policy.Verdict `json:"verdict"`
	Text    string         `json:"what"`
	Place   string         `json:"place,omitempty"` // file:line of the policy
}

type count struct {
	Name    string         `json:"name"`
	Limit   int64          `json:"limit"`
	Per     string         `json:"per,omitempty"` // "" for requests under way
	Before  int64          `json:"before"`
	After   int64          `json:"after"`
	Leased  int64          `json:"leased"` // units that servers hold; they are in before and after
	Reset   time.Time      `json:"reset,omitzero"`
	Verdict policy.Verdict `json:"verdict"`
}

type reply struct {
	Status  int         `json:"status"`
	Headers [][2]string `json:"headers"`
	Body    string      `json:"body"`
}

type pass struct {
	Set      [][2]string `json:"set"`                // headers that the application gets
	Removed  []string    `json:"removed"`            // headers that it does not get
	Stripped bool        `json:"stripped,omitempty"` // the key is taken out of the query
	Response [][2]string `json:"response"`           // headers that the client gets with the application's response
}

// report makes one of the decision.
func (d *decision) report(r *policy.Request, places *policyfile.Places) *report {
	made, explained := d.Decision(), d.Explain()
	path, _, _ := router.SplitTarget(r.Target)
	out := &report{Request: r.Method + " " + path, Allowed: made.Allow, Reason: made.Reason.String()}
	if made.Shadow != policy.Allowed {
		out.Shadow = made.Shadow.String()
	}
	api := ""
	if d.API() != nil {
		api = d.API().Name()
	}
	for _, s := range explained.Steps {
		out.Steps = append(out.Steps, step{s.Name, s.Verdict, s.Text, placeOf(places, api, s.Rule)})
	}
	for i, n := range explained.Limits {
		line := count{Name: n.Name, Limit: n.Limit, Per: n.Per, Before: n.Before, After: n.After, Reset: n.Reset, Verdict: n.Verdict}
		if i < len(d.held) {
			line.Leased = d.held[i]
		}
		out.Limits = append(out.Limits, line)
	}
	if made.Allow {
		out.Pass = &pass{Set: pairs(made.Request), Removed: made.Remove, Stripped: made.Target != "", Response: pairs(made.Response)}
	} else {
		out.Reply = &reply{Status: made.Status, Headers: pairs(made.Response), Body: string(made.Body)}
	}
	return out
}

// placeOf returns where a policy states a rule, file:line, "" where it does not.
func placeOf(p *policyfile.Places, api string, r policy.Rule) string {
	if at, ok := p.Find(api, r); ok {
		return at.String()
	}
	return ""
}

// pairs are headers as the servers write them.
func pairs(headers []policy.Header) [][2]string {
	all := make([][2]string, 0, len(headers))
	for _, h := range headers {
		all = append(all, [2]string{h.Name, extauthz.CleanValue(h.Value)})
	}
	return all
}

// print writes the report for people.
func (r *report) print(w io.Writer) error {
	rows := [][]string{{"STEP", "VERDICT", "PLACE", "WHAT"}}
	for _, s := range r.Steps {
		rows = append(rows, []string{s.Name, string(s.Verdict), output.OrDash(s.Place), s.Text})
	}
	if err := output.Columns(w, rows); err != nil {
		return err
	}
	if len(r.Limits) > 0 {
		rows = [][]string{{"LIMIT", "BEFORE", "AFTER", "OF", "PER", "LEASED", "RESET"}}
		for _, n := range r.Limits {
			rows = append(rows, []string{
				n.Name, strconv.FormatInt(n.Before, 10), strconv.FormatInt(n.After, 10), strconv.FormatInt(n.Limit, 10),
				output.OrDash(n.Per), strconv.FormatInt(n.Leased, 10), output.OrDash(output.Time(n.Reset)),
			})
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := output.Columns(w, rows); err != nil {
			return err
		}
	}
	_, err := io.WriteString(w, r.answer())
	return err
}

// answer is the end of the report: what client and application get.
func (r *report) answer() string {
	var b strings.Builder
	if r.Reply != nil {
		fmt.Fprintf(&b, "\ndenied: %s\n\nHTTP %d %s\n", r.Reason, r.Reply.Status, http.StatusText(r.Reply.Status))
		writeHeaders(&b, "", r.Reply.Headers)
		fmt.Fprintf(&b, "\n%s\n", r.Reply.Body)
		return b.String()
	}
	fmt.Fprintf(&b, "\n%s", r.Reason)
	if r.Shadow != "" {
		fmt.Fprintf(&b, " by shadow_mode; else it were denied: %s", r.Shadow)
	}
	fmt.Fprintf(&b, "\n\nThe application gets %s", r.Request)
	if r.Pass.Stripped {
		b.WriteString(" without the key in its query")
	}
	b.WriteString("\n")
	writeHeaders(&b, "  ", r.Pass.Set)
	fmt.Fprintf(&b, "and not, if the client sent them\n  %s\n", strings.Join(r.Pass.Removed, ", "))
	if len(r.Pass.Response) > 0 {
		b.WriteString("The client gets, with the application's response\n")
		writeHeaders(&b, "  ", r.Pass.Response)
	}
	return b.String()
}

func writeHeaders(b *strings.Builder, before string, headers [][2]string) {
	for _, h := range headers {
		fmt.Fprintf(b, "%s%s: %s\n", before, h[0], h[1])
	}
}
