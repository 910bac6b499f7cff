// Package router finds what a method and a path are routed to, by the rules of Go's ServeMux. It is
// stricter than ServeMux: a path that two parsers could read differently has no segments and hence
// no route, nothing is redirected, and patterns that look like those of other routers are refused.
package router

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// Router finds the route of a request by Go's ServeMux rules
// (https://pkg.go.dev/net/http#hdr-Patterns-ServeMux): of all patterns that match, the most
// specific wins, GET matches HEAD, a trailing slash matches everything below it. Unlike ServeMux it
// never redirects and never cleans a path. It does not change once its Builder is done.
type Router[Route any] struct {
	methods map[string]*node[Route]
	any     *node[Route]
}

// node is one position in the segments of a path.
type node[Route any] struct {
	literal map[string]*node[Route]
	single  *node[Route] // {name}
	multi   *Route       // {name...} or a trailing slash
	route   *Route       // a pattern ends here
}

// Builder makes a Router of patterns.
type Builder[Route any] struct {
	router *Router[Route]
	mux    *http.ServeMux
}

// NewBuilder returns a Builder without patterns.
func NewBuilder[Route any]() *Builder[Route] {
	return &Builder[Route]{router: &Router[Route]{methods: map[string]*node[Route]{}}, mux: http.NewServeMux()}
}

// Router returns the Router of what was added. Nothing may be added after that.
func (b *Builder[Route]) Router() *Router[Route] { return b.router }

// Add compiles a pattern. ServeMux itself judges it, so that syntax and conflicts are exactly Go's;
// what it accepts goes into the tree that requests walk.
func (b *Builder[Route]) Add(pattern string, route *Route) error {
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
	if err := register(b.mux, pattern); err != nil {
		return err
	}
	n := b.router.tree(method)
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
				n.single = &node[Route]{}
			}
			n = n.single
		default:
			literal, err := url.PathUnescape(segment)
			if err != nil {
				return fmt.Errorf("pattern %q: %w", pattern, err)
			}
			if got, ok := Segments("/"+url.PathEscape(literal), nil); !ok || got[0] != literal {
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

// muxComplaint takes the places in Go source out of ServeMux's message: they would be ours, and say
// nothing about the policy file.
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

func (r *Router[Route]) tree(method string) *node[Route] {
	if method == "" {
		if r.any == nil {
			r.any = &node[Route]{}
		}
		return r.any
	}
	if r.methods[method] == nil {
		r.methods[method] = &node[Route]{}
	}
	return r.methods[method]
}

func (n *node[Route]) child(segment string) *node[Route] {
	if n.literal == nil {
		n.literal = map[string]*node[Route]{}
	}
	if n.literal[segment] == nil {
		n.literal[segment] = &node[Route]{}
	}
	return n.literal[segment]
}

// Find returns the route of a method and the segments of a path, or nil. Where ServeMux would
// redirect /a to the pattern /a/, although a wider one matches /a, there is no route: the wider one
// may ask for less.
func (r *Router[Route]) Find(method string, segs []string) *Route {
	route, exact := r.match(method, segs)
	if route == nil || exact || segs[len(segs)-1] == "/" {
		return route
	}
	if _, redirect := r.match(method, append(segs, "/")); redirect {
		return nil
	}
	return route
}

// match is Find without regard to redirects. It is exact unless the route's last wildcard stands
// for something.
func (r *Router[Route]) match(method string, segs []string) (_ *Route, exact bool) {
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

func (n *node[Route]) match(segs []string) (_ *Route, exact bool) {
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
