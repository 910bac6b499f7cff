package router

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestSegments(t *testing.T) {
	for path, want := range map[string][]string{
		"/":                  {"/"},
		"/a":                 {"a"},
		"/a/":                {"a", "/"},
		"/a/b":               {"a", "b"},
		"/A":                 {"A"},
		"/%61/b":             {"a", "b"},
		"/a/%C3%A9":          {"a", "é"},
		"/a%20b/c+d":         {"a b", "c+d"},
		"/100%25":            {"100%"},
		"/100%25zz":          {"100%zz"},
		"/a:b@c=d,e!f~g'(*)": {"a:b@c=d,e!f~g'(*)"},
		"/.well-known/x":     {".well-known", "x"},
		"/...":               {"..."},
		"/a..b/.c":           {"a..b", ".c"},
		"/{x}":               {"{x}"},
	} {
		if got, ok := Segments(path, nil); !ok || !slices.Equal(got, want) {
			t.Errorf("%q: %q %v, want %q", path, got, ok, want)
		}
	}
}

// What real Envoys pass on unchanged, and parsers read in different ways.
func TestOddPathsMatchNothing(t *testing.T) {
	for _, path := range []string{
		"", "*", "a", "a/b", "example.com:443", "http://h2.test/a", "https:/a",
		"//", "//a", "///b", "/a//b", "/a//", "/a/b//",
		"/.", "/..", "/./", "/../", "/a/../b", "/a/./b", "/a/..", "/a/.",
		"/a/%2e%2e/b", "/a/%2E/b", "/a/.%2e/b", "/a/%2e./b", "/file%2etxt",
		"/a%2Fb", "/a%2fb", "/a%5Cb", "/a%5cb", "/a/..%2fb", `/a\b`, `/a/..\b`, `\a`, `/\a`,
		"/a/..;/b", "/a/.;/b", "/a/b;x=1", "/a%3bx", "/a%3Bx",
		"/a%", "/a%2", "/a%zz", "/a%2z", "/a%u002e", "/a%0ab", "/a%0Db", "/a%00b", "/a%1f", "/a%7f", "/a%7F",
		"/a/%252e%252e/b", "/a%252Fb", "/a%2541", "/a%25%34%31", "/b%3fx=1", "/b%3Fx", "/a%23b",
		"/a#b", "/a#", "#", "/?", "/a?b", "/a b", "/a\tb", "/a\nb", "/a\rb", "/a\x00b", "/a\x7fb", "/é", "/\xff", "/a\x80",
		"/%ff", "/%c0%ae%c0%ae/b", "/%c0%af", "/%e0%80%ae", "/%C3", "/%C3/%A9", "/%ed%a0%80",
	} {
		if got, ok := Segments(path, nil); ok {
			t.Errorf("%q is read as %q", path, got)
		}
	}
}

// An independent, stricter reading: what segments accepts, net/url reads alike, and reading it once
// more changes nothing.
func strictReading(t interface{ Fatalf(string, ...any) }, path string, got []string) {
	if path[0] != '/' || strings.ContainsAny(path, "\\;#?") || strings.Contains(path, "//") {
		t.Fatalf("%q: odd byte accepted", path)
	}
	if u, err := url.ParseRequestURI(path); err != nil || u.Host != "" {
		t.Fatalf("%q: net/url says %v %v", path, u, err)
	}
	raw := strings.Split(path[1:], "/")
	if raw[len(raw)-1] == "" {
		raw[len(raw)-1] = "%2F" // the final slash
	}
	if len(raw) != len(got) {
		t.Fatalf("%q: %q", path, got)
	}
	for i, segment := range raw {
		want, err := url.PathUnescape(segment)
		if err != nil || want != got[i] || want == "." || want == ".." || !utf8.ValidString(want) {
			t.Fatalf("%q: segment %q, net/url says %q %v", path, got[i], want, err)
		}
		if segment != "%2F" && strings.ContainsAny(want, "/\\;#?\x00\r\n\x7f") {
			t.Fatalf("%q: segment %q holds an odd byte", path, want)
		}
		if twice, err := url.PathUnescape(want); err == nil && twice != want {
			t.Fatalf("%q: segment %q can be decoded again", path, want)
		}
	}
}

func TestSegmentsAgreeWithNetURL(t *testing.T) {
	piece := rapid.SampledFrom([]string{"/", "/", "a", "b", ".", "..", "%2e", "%2F", "%61", "%25", "%C3%A9", "%ff", "41", ";", "\\", "%", "#", " ", "%20", "~", "%3f", "{"})
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pieces"), "")
		if got, ok := Segments(path, nil); ok {
			accepted++
			strictReading(t, path, got)
		}
	})
	if accepted < 5 {
		t.Errorf("only %d accepted", accepted)
	}
}

func FuzzSegments(f *testing.F) {
	for _, path := range []string{"/", "/a/b", "/a/", "//a", "/a/%2e%2e/b", "/%61", "/%C3%A9", "/100%25", "/a;b", "/a%00", "/?", "*", ""} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got, ok := Segments(path, nil)
		if !ok {
			return
		}
		for i := range len(path) {
			if c := path[i]; c <= ' ' || c >= 0x7f {
				t.Fatalf("%q: byte %#x accepted", path, c)
			}
		}
		strictReading(t, path, got)
	})
}

func TestQueryDecode(t *testing.T) {
	for in, want := range map[string]string{"": "", "a": "a", "%61+b": "a b", "%2B": "+", "a%3D": "a="} {
		if got, ok := DecodeQuery(in); !ok || got != want {
			t.Errorf("%q: %q %v", in, got, ok)
		}
	}
	for _, in := range []string{"%", "%6", "%zz", "a%6g"} {
		if got, ok := DecodeQuery(in); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
}
