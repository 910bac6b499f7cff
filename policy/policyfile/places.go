package policyfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"tollgate/policy"
)

// Places says where the rules of a Set stand in its files. It is for people: nothing that decides
// holds one.
type Places struct{ files map[string]placed } // by API

// placed is one file, as it was read.
type placed struct {
	doc *document
	src *source
}

// Place is a line of a policy file, counted from 1.
type Place struct {
	File string
	Line int
}

// String returns "file:line".
func (p Place) String() string { return fmt.Sprintf("%s:%d", p.File, p.Line) }

// CompilePlaced is Compile, and says where the rules stand.
func CompilePlaced(files ...File) (*policy.Set, *Places, error) {
	places := &Places{files: map[string]placed{}}
	set, err := compileAll(files, func(doc *document, src *source) { places.files[doc.API] = placed{doc, src} })
	if err != nil {
		return nil, nil, err
	}
	return set, places, nil
}

// Find returns the place of a rule of an API. ok is false where the file does not state it, so that
// a default holds.
func (p *Places) Find(api string, r policy.Rule) (_ Place, ok bool) {
	in, ok := p.files[api]
	if !ok {
		return Place{}, false
	}
	path := in.path(r)
	if path == "" {
		return Place{}, false
	}
	parsed, err := yaml.PathString("$." + path)
	if err != nil {
		return Place{}, false
	}
	if node, err := parsed.FilterNode(in.src.body); err != nil || node == nil {
		return Place{}, false
	}
	f := in.src.faultAt(in.src.token(path), "")
	return Place{f.File, f.Line}, true
}

// path returns the path of a rule in the document, "" for one that is not in it.
func (p *placed) path(r policy.Rule) string {
	doc, list := p.doc, string(r.Section)
	switch r.Section {
	case policy.HostsSection:
		return p.src.hosts[r.Name]
	case policy.CredentialsSection:
		if r.Name == "" {
			return list
		}
		return indexed(list, doc.Credentials, func(c *credentialIn) bool { return c.is(r.Name) })
	case policy.EnvironmentsSection:
		return indexed(list, doc.Environments, func(e *environment) bool { return e.Name == r.Name })
	case policy.ScopesSection:
		return indexed(list, doc.Scopes, func(s *scopeIn) bool { return s.Name == r.Name })
	case policy.RoutesSection:
		if r.Name == "" {
			return list
		}
		return indexed(list, doc.Routes, func(s *routeIn) bool { return s.Name == r.Name })
	case policy.PlansSection:
		return p.plan(r)
	case policy.AnswersSection:
		reason := r.Name
		if known, ok := policy.ParseReason(reason); ok && !known.Answered() {
			reason = policy.Undecided.String()
		}
		return indexed(list, doc.Errors.Answers, func(a *answerIn) bool { return slices.Contains(a.On, reason) })
	}
	return list
}

// plan returns the path of a plan, or of one of its limits.
func (p *placed) plan(r policy.Rule) string {
	if r.Name == "" {
		return string(r.Section)
	}
	i := slices.IndexFunc(p.doc.Plans, func(in planIn) bool { return in.Name == r.Name })
	if i < 0 {
		return ""
	}
	path := at(string(r.Section), i, "")
	switch in := p.doc.Plans[i]; {
	case r.Limit == "":
		return path
	case r.Limit == policy.ConcurrentLimit:
		return path + "." + policy.ConcurrentLimit
	case in.Limits == nil:
		return ""
	default:
		return indexed(path+".limits", *in.Limits, func(l *limitIn) bool { return l.Name == r.Limit })
	}
}

// indexed returns the path of the first element of a list that is meant, "" if none is.
func indexed[T any](list string, all []T, meant func(*T) bool) string {
	for i := range all {
		if meant(&all[i]) {
			return at(list, i, "")
		}
	}
	return ""
}

// is reports whether the credential is the one of that form, such as "header: x-api-key".
func (c *credentialIn) is(form string) bool {
	kind, name, _ := strings.Cut(form, ": ")
	if kind == "oauth2" {
		return c.OAuth2 != nil && c.OAuth2.Issuer == name
	}
	return strings.EqualFold(name, map[string]string{"authorization": c.Authorization, "header": c.Header, "query": c.Query}[kind])
}
