package envoy_test

import (
	"iter"
	"net/url"
	"strings"
	"testing"

	"tollgate/envoy/envoytest"
	"tollgate/extauthz/extauthztest"
)

// Where a key is taken out of the query, the application gets the path and the pairs
// that were judged: the same text after decoding, whatever the proxy does to the bytes.
func TestTargetsWithAKeyArriveAsJudged(t *testing.T) {
	const key = "api_key=pm_DemoAllServices00000000000047l1f4"
	setup := proxySetup{without: map[string]string{"traefik": "Traefik cannot take a key out of the query"}}
	eachProxy(t, setup, func(t *testing.T, p *otherProxy) {
		_, entries, _ := extauthztest.APIFiles(t, "pixelmagic")
		p.stack.Use(t, extauthztest.NewRedis(t, "embedded"), entries)
		for path, query := range targetCorpus() {
			target := path + "?" + key
			if query != "" {
				target = path + "?" + query + "&" + key
			}
			resp := p.send(t, &envoytest.Request{Method: "GET", Target: target, Host: "api.pixelmagicai.com"})
			echo := received(resp)
			if echo == nil {
				t.Errorf("%s: %d %.100s", target, resp.Status, resp.Body)
				continue
			}
			gotPath, gotQuery, _ := strings.Cut(echo.Path, "?")
			if got, want := decoded(t, gotPath, url.PathUnescape), decoded(t, path, url.PathUnescape); got != want {
				t.Errorf("%s: the application got the path %q, want %q", target, got, want)
			}
			if got, want := pairsOf(t, gotQuery), pairsOf(t, query); got != want {
				t.Errorf("%s: the application got the query %q, want %q", target, got, want)
			}
			if p.name != "caddy" && echo.Path != strings.TrimSuffix(path+"?"+query, "?") {
				t.Errorf("%s: the application got %s", target, echo.Path)
			}
		}
	})
}

// targetCorpus pairs paths that are allowed with queries, each of both once or more.
func targetCorpus() iter.Seq2[string, string] {
	paths := []string{
		"a%20b", "a%20", "%20", "a%2Cb", "a,b", "100%25", "%C3%A9", "a+b", "a%2Bb", "a:b@c!$&'()*=", "%7Benv.HOME%7D", "{env.HOME}", "%61", "~",
		"%22%3C%3E%5E%60%7C", "a%26b%3Dc",
	}
	queries := []string{
		"", "a=b", "a=b=c", "a==", "sig=abc==&x=1", "a", "a=", "=b", "a=b&a=c", "a=%26%3D%2B+", "a=%C3%A9", "%7B=%7D", "a={b}&{c}", "a=b?c=d", "a=/..//&b=;c",
		"a[]=1&a[]=2", "a=b%23c",
	}
	return func(yield func(string, string) bool) {
		for i := range max(len(paths), len(queries)) {
			if !yield("/v1/images/"+paths[i%len(paths)], queries[i%len(queries)]) {
				return
			}
		}
	}
}

func decoded(t *testing.T, text string, decode func(string) (string, error)) string {
	t.Helper()
	plain, err := decode(text)
	if err != nil {
		t.Errorf("%s: %v", text, err)
	}
	return plain
}

// pairsOf decodes the pairs of a query and joins them by what no pair holds.
func pairsOf(t *testing.T, query string) string {
	t.Helper()
	var pairs []string
	for pair := range strings.SplitSeq(query, "&") {
		name, value, _ := strings.Cut(pair, "=")
		pairs = append(pairs, decoded(t, name, url.QueryUnescape)+"\x00"+decoded(t, value, url.QueryUnescape))
	}
	return strings.Join(pairs, "\x01")
}
