package policy

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// router finds the route of a request by Go's ServeMux rules
// (https://pkg.go.dev/net/http#hdr-Patterns-ServeMux): of all patterns that match,
// the most specific wins, GET matches HEAD, a trailing slash matches everything
// below it. Unlike ServeMux it never redirects and never cleans a path.
type router struct {
	methods map[string]*node
	any     *node
	mux     *http.ServeMux
}

// node is one position in the segments of a path.
type node struct {
	literal map[string]*node
	single  *node  // {name}
	multi   *Route // {name...} or a trailing slash
	route   *Route // a pattern ends here
}

func newRouter() *router {
	return &router{methods: map[string]*node{}, mux: http.NewServeMux()}
}

// add compiles a pattern. ServeMux itself judges it, so that syntax and conflicts
// are exactly Go's; what it accepts goes into the tree that requests walk.
func (r *router) add(pattern string, route *Route) error {
	method, path, ok := splitPattern(pattern)
	switch {
	case !ok || !strings.HasPrefix(path, "/"):
		return fmt.Errorf("pattern %q: want [METHOD ]/path; hosts belong under hosts", pattern)
	case strings.ToUpper(method) != method:
		return fmt.Errorf("pattern %q: methods are upper case, want %q", pattern, strings.ToUpper(method)+pattern[len(method):])
	case method == http.MethodConnect:
		return fmt.Errorf("pattern %q: CONNECT has no path to match", pattern)
	}
	if err := patternFault(method, path); err != nil {
		return fmt.Errorf("pattern %q: %w", pattern, err)
	}
	if err := register(r.mux, pattern); err != nil {
		return err
	}
	n := r.tree(method)
	for rest := path[1:]; ; {
		segment, tail, more := strings.Cut(rest, "/")
		switch {
		case !more && segment == "", strings.HasSuffix(segment, "...}"):
			n.multi = route
			return nil
		case segment == "{$}":
			n.child("/").route = route
			return nil
		case strings.HasPrefix(segment, "{"):
			if n.single == nil {
				n.single = &node{}
			}
			n = n.single
		default:
			literal, err := url.PathUnescape(segment)
			if err != nil {
				return fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if got, ok := segments("/"+url.PathEscape(literal), nil); !ok || got[0] != literal {
				return fmt.Errorf("pattern %q can match no request: segment %q is always refused", pattern, segment)
			}
			n = n.child(literal)
		}
		if !more {
			n.route = route
			return nil
		}
		rest = tail
	}
}

func splitPattern(pattern string) (method, path string, ok bool) {
	space := strings.IndexAny(pattern, " \t")
	if space < 0 {
		return "", pattern, true
	}
	return pattern[:space], strings.TrimLeft(pattern[space:], " \t"), space > 0
}

// register hands a pattern to ServeMux, which panics on what it refuses.
func register(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("pattern %s", muxComplaint(pattern, fmt.Sprint(p)))
		}
	}()
	mux.Handle(pattern, http.NotFoundHandler())
	return nil
}

// muxComplaint takes the places in Go source out of ServeMux's message: they
// would be ours, and say nothing about the policy file.
func muxComplaint(pattern, message string) string {
	if _, after, found := strings.Cut(message, "conflicts with pattern "); found {
		if other, err := strconv.QuotedPrefix(after); err == nil {
			return fmt.Sprintf("%q conflicts with pattern %s: neither is more specific", pattern, other)
		}
	}
	_, after, found := strings.Cut(message, ": ")
	if !found {
		after = message
	}
	return fmt.Sprintf("%q: %s", pattern, strings.Join(strings.Fields(after), " "))
}

func (r *router) tree(method string) *node {
	if method == "" {
		if r.any == nil {
			r.any = &node{}
		}
		return r.any
	}
	if r.methods[method] == nil {
		r.methods[method] = &node{}
	}
	return r.methods[method]
}

func (n *node) child(segment string) *node {
	if n.literal == nil {
		n.literal = map[string]*node{}
	}
	if n.literal[segment] == nil {
		n.literal[segment] = &node{}
	}
	return n.literal[segment]
}

// find returns the route of a method and the segments of a path, or nil. Where
// ServeMux would redirect /a to the pattern /a/, although a wider one matches /a,
// there is no route: the wider one may ask for less.
func (r *router) find(method string, segs []string) *Route {
	route, exact := r.match(method, segs)
	if route == nil || exact || segs[len(segs)-1] == "/" {
		return route
	}
	if _, redirect := r.match(method, append(segs, "/")); redirect {
		return nil
	}
	return route
}

// match is find without regard to redirects. It is exact unless the route's
// last wildcard stands for something.
func (r *router) match(method string, segs []string) (_ *Route, exact bool) {
	if route, exact := r.methods[method].match(segs); route != nil {
		return route, exact
	}
	if method == http.MethodHead {
		if route, exact := r.methods[http.MethodGet].match(segs); route != nil {
			return route, exact
		}
	}
	return r.any.match(segs)
}

func (n *node) match(segs []string) (_ *Route, exact bool) {
	if n == nil {
		return nil, false
	}
	if len(segs) == 0 {
		return n.route, n.route != nil
	}
	if route, exact := n.literal[segs[0]].match(segs[1:]); route != nil {
		return route, exact
	}
	// A trailing slash is no segment that {name} could stand for.
	if segs[0] != "/" {
		if route, exact := n.single.match(segs[1:]); route != nil {
			return route, exact
		}
	}
	return n.multi, n.multi != nil && segs[0] == "/"
}
