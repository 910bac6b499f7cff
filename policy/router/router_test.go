package router

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// patternGen draws patterns of few words, so that they meet.
func patternGen() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		method := rapid.SampledFrom([]string{"", "", "GET ", "POST ", "HEAD ", "DELETE\t "}).Draw(t, "method")
		var path strings.Builder
		n := rapid.IntRange(0, 4).Draw(t, "segments")
		for i := range n {
			path.WriteByte('/')
			path.WriteString(rapid.SampledFrom([]string{"a", "b", "%61", "c%20d", fmt.Sprintf("{x%d}", i), fmt.Sprintf("{y%d}", i), "{x}"}).Draw(t, "segment"))
		}
		path.WriteString(rapid.SampledFrom([]string{"", "", "/", "/{$}", "/{rest...}", "/b"}).Draw(t, "end"))
		return method + path.String()
	})
}

func pathGen() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		var path strings.Builder
		for range rapid.IntRange(0, 5).Draw(t, "segments") {
			path.WriteByte('/')
			path.WriteString(rapid.SampledFrom([]string{"a", "b", "e", "%61", "c%20d", "%7Bx%7D", "%C3%A9", "a+b"}).Draw(t, "segment"))
		}
		if path.Len() == 0 || rapid.Bool().Draw(t, "slash") {
			path.WriteByte('/')
		}
		return path.String()
	})
}

// oracle asks ServeMux itself. A redirect is no match: an API gateway that answers for the
// application must not send clients elsewhere.
func oracle(mux *http.ServeMux, method, path string) string {
	r := httptest.NewRequest(method, path, nil)
	handler, pattern := mux.Handler(r)
	if _, ours := handler.(mark); !ours {
		return ""
	}
	return pattern
}

type mark struct{}

func (mark) ServeHTTP(http.ResponseWriter, *http.Request) {}

func muxAdd(mux *http.ServeMux, pattern string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	mux.Handle(pattern, mark{})
	return nil
}

// The router refuses what ServeMux refuses, and finds what ServeMux finds.
func TestRouterIsServeMux(t *testing.T) {
	found := map[bool]int{}
	rapid.Check(t, func(t *rapid.T) {
		mux, builder := http.NewServeMux(), NewBuilder[string]()
		for _, pattern := range rapid.SliceOfN(patternGen(), 1, 6).Draw(t, "patterns") {
			want := muxAdd(mux, pattern)
			got := builder.Add(pattern, &pattern)
			if (want == nil) != (got == nil) {
				t.Fatalf("%q: ServeMux says %v, we say %v", pattern, want, got)
			}
			if got != nil && (!strings.Contains(got.Error(), fmt.Sprintf("%q", pattern)) || strings.Contains(got.Error(), ".go:") || strings.Contains(got.Error(), "\n")) {
				t.Fatalf("message %q", got)
			}
		}
		for range 8 {
			method := rapid.SampledFrom([]string{"GET", "HEAD", "POST", "DELETE", "PATCH"}).Draw(t, "method")
			path := pathGen().Draw(t, "path")
			segs, ok := Segments(path, nil)
			if !ok {
				t.Fatalf("%s is refused", path)
			}
			got := ""
			if route := builder.Router().Find(method, segs); route != nil {
				got = *route
			}
			want := oracle(mux, method, path)
			found[want != ""]++
			if got != want {
				t.Fatalf("%s %s: ServeMux finds %q, we find %q", method, path, want, got)
			}
		}
	})
	if found[true] < 50 || found[false] < 50 {
		t.Errorf("too few cases of a kind: %v", found)
	}
}

func TestRouterRefuses(t *testing.T) {
	for _, c := range [][]string{
		{""}, {"GET"}, {"GET "}, {" /a"}, {"a"}, {"host/a"}, {"GET host/a"}, {"CONNECT /a"}, {"G@T /a"}, {"get /a"}, {"Get /a"}, {"GEt\t/a"},
		{"/{"}, {"/{}"}, {"/{x"}, {"/x{y}"}, {"/{x}y"}, {"/{x...}/a"}, {"/{$}/a"}, {"/{x}/{x}"}, {"/{1}"},
		{"/a//b"}, {"GET /a//b"}, {"//"}, {"/a/./b"}, {"/a/../b"}, {"/a;b"}, {"/a%3Bb"}, {"/a%2Fb"}, {"/%2e"}, {"/a\\b"}, {"/%zz"}, {"/%2541"}, {"/%ff"}, {"/a?b"}, {"/a#b"},
		{"/a", "/a"}, {"/a/{x}", "/a/{y}"}, {"/a/", "/a/{x...}"}, {"GET /a/{x...}", "/a/b"}, {"/{x}/b", "/a/{y}"}, {"/a", "/%61"},
	} {
		r := NewBuilder[string]()
		var err error
		for _, pattern := range c {
			err = r.Add(pattern, &pattern)
		}
		if err == nil {
			t.Errorf("%q is accepted", c)
		} else if !strings.HasPrefix(err.Error(), fmt.Sprintf("pattern %q", c[len(c)-1])) {
			t.Errorf("%q: message %v", c, err)
		}
	}
}

// A literal may be written as it reads; the request's is always escaped.
func TestRouterLiteralBeyondASCII(t *testing.T) {
	r := NewBuilder[string]()
	if err := r.Add("GET /café/{x}", new("café")); err != nil {
		t.Fatal(err)
	}
	segs, ok := Segments("/caf%C3%A9/1", nil)
	if !ok || r.Router().Find("HEAD", segs) == nil {
		t.Errorf("not found: %q %v", segs, ok)
	}
}

// A wide public route must not answer for the bare name of a narrow one.
func TestRouterNeverWidens(t *testing.T) {
	r := NewBuilder[string]()
	for _, pattern := range []string{"/", "/admin/", "GET /own/{id}/{$}"} {
		if err := r.Add(pattern, &pattern); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{"/": "/", "/x": "/", "/admin": "", "/admin/": "/admin/", "/admin/x": "/admin/", "/own/1": "", "/own/1/": "GET /own/{id}/{$}", "/own": "/"} {
		segs, _ := Segments(path, nil)
		got := ""
		if route := r.Router().Find("GET", segs); route != nil {
			got = *route
		}
		if got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}

// manyRoutes is a router with n routes that differ in a literal, and the segments of a path that
// the last of them matches.
func manyRoutes(tb testing.TB, n int) (*Router[string], []string) {
	tb.Helper()
	r := NewBuilder[string]()
	for i := range n {
		if err := r.Add(fmt.Sprintf("GET /v1/kind%d/{id}/parts/{part}", i), new("r")); err != nil {
			tb.Fatal(err)
		}
	}
	segs, ok := Segments(fmt.Sprintf("/v1/kind%d/42/parts/7", n-1), nil)
	if !ok {
		tb.Fatal("the path is refused")
	}
	return r.Router(), segs
}

// nodesMet counts the nodes that a request meets on its way, whatever the machine does at the time.
func nodesMet(n *node[string], segs []string) int {
	if n == nil {
		return 0
	}
	if len(segs) == 0 {
		return 1
	}
	return 1 + nodesMet(n.literal[segs[0]], segs[1:]) + nodesMet(n.single, segs[1:])
}

// A request meets as many nodes among 10,000 routes as among 10: each step is one look-up in a map,
// so matching takes no longer but for the memory's caches.
func TestRouterStepsDoNotGrow(t *testing.T) {
	few, fewSegs := manyRoutes(t, 10)
	many, manySegs := manyRoutes(t, 10_000)
	want, got := nodesMet(few.methods["GET"], fewSegs), nodesMet(many.methods["GET"], manySegs)
	if want != len(fewSegs)+1 || got != want {
		t.Errorf("%d steps among 10,000 routes, %d among 10, for %d segments", got, want, len(fewSegs))
	}
	if few.Find("GET", fewSegs) == nil || many.Find("GET", manySegs) == nil {
		t.Error("not found")
	}
}

func BenchmarkRouter(b *testing.B) {
	for _, n := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			r, _ := manyRoutes(b, n)
			path := fmt.Sprintf("/v1/kind%d/42/parts/7", n/2)
			var buf [16]string
			b.ReportAllocs()
			for b.Loop() {
				segs, _ := Segments(path, buf[:0])
				if r.Find("GET", segs) == nil {
					b.Fatal("not found")
				}
			}
		})
	}
}
