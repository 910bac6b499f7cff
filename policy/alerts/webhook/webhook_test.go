package webhook_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tollgate/policy/alerts/guard"
	"tollgate/policy/alerts/webhook"
)

const secretText = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func secret(t *testing.T) webhook.Secret {
	t.Helper()
	s, err := webhook.ParseSecret(secretText + "\n")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The vector is that of the libraries of Standard Webhooks.
func TestSignature(t *testing.T) {
	got := secret(t).Sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", secret(t), secret(t), secret(t), secret(t)); strings.Contains(text, "MfKQ") || strings.Contains(text, "0x31") {
		t.Errorf("it prints itself: %s", text)
	}
}

func TestParseSecret(t *testing.T) {
	of := func(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for text, ok := range map[string]bool{
		of(24): true, of(64): true, of(23): false, of(65): false, "": false, "whsec_": false, "whsec_???": false,
		strings.TrimPrefix(of(24), "whsec_"): false,
	} {
		if _, err := webhook.ParseSecret(text); (err == nil) != ok || err != nil && strings.Contains(err.Error(), "AAAA") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// receiver returns one at a handler, whose server is at an allowed address.
func receiver(t *testing.T, h http.HandlerFunc, allow string) *webhook.Receiver {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return receiverAt(t, s.URL+"/hook?token=SECRET", allow)
}

func receiverAt(t *testing.T, address, allow string) *webhook.Receiver {
	t.Helper()
	allowed, err := guard.ParseAllowed(allow)
	if err != nil {
		t.Fatal(err)
	}
	r, err := webhook.New(address, secret(t), guard.New(allowed), true)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// What arrives is what was signed.
func TestPost(t *testing.T) {
	at, body := time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)
	var got http.Header
	var read []byte
	r := receiver(t, func(w http.ResponseWriter, req *http.Request) {
		got = req.Header
		read, _ = io.ReadAll(req.Body)
		w.WriteHeader(http.StatusNoContent)
	}, "127.0.0.1")
	if err := r.Post(t.Context(), "msg_p5jXN8AQM9LWM0D4loKWxJek", at, body); err != nil {
		t.Fatal(err)
	}
	if got.Get("Webhook-Id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" || got.Get("Webhook-Timestamp") != "1614265330" ||
		got.Get("Webhook-Signature") != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" || string(read) != string(body) {
		t.Errorf("%v, %s", got, read)
	}
}

// Slack gets what people read, with nothing that it takes for more than text, and no signature.
func TestSlack(t *testing.T) {
	var header http.Header
	var read []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		header = req.Header
		read, _ = io.ReadAll(req.Body)
		_, _ = io.WriteString(w, "ok")
	}))
	defer s.Close()
	allowed, err := guard.ParseAllowed("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	r, err := webhook.NewSlack(s.URL+"/services/SECRET", guard.New(allowed), true)
	if err != nil {
		t.Fatal(err)
	}
	message := `{"type":"quota.reached","timestamp":"2026-11-30T17:02:11.408Z","data":{"api":"pictify","team":"<!channel> R&D","key":"key_0001","spent":37510,"last_used":"2026-12-01T00:00:00Z"}}`
	if err := r.Post(t.Context(), "msg_1", time.Now(), []byte(message)); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(read, &got); err != nil {
		t.Fatal(err)
	}
	want := "*a key has reached a share of its limit*\napi: pictify\nteam: &lt;!channel&gt; R&amp;D\nkey: key_0001\nspent: 37510\nlast used: 2026-12-01T00:00:00Z"
	if len(got) != 1 || got["text"] != want || header.Get("Content-Type") != "application/json" || header.Get("Webhook-Signature") != "" {
		t.Errorf("%q, %v", got, header)
	}
	if err := r.Post(t.Context(), "msg_1", time.Now(), []byte(`{"data":[]}`)); err == nil {
		t.Error("what is no message is sent")
	}
	if _, err := webhook.NewSlack("http://hooks.example.com/SECRET", guard.New(nil), false); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("%v", err)
	}
}

// Each of these is a failure that may be tried again, and says nothing of the URL nor of what was
// answered.
func TestPostFails(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer other.Close()
	hang := make(chan struct{})
	defer close(hang)
	answers := map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "ANSWERED", 500) }, "answered 500"},
		"redirects": {func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, other.URL, http.StatusTemporaryRedirect)
		}, "answered 307: redirects are not followed"},
		"redirects nowhere": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://ANSWERED:x")
			w.WriteHeader(http.StatusFound)
		}, "the connection broke"},
		"is no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			_, _ = c.Write([]byte("ANSWERED\r\n\r\n"))
			_ = c.Close()
		}, "the connection broke"},
		"breaks off": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("ANSWERED"))
		}, "broke off"},
	}
	for name, a := range answers {
		err := receiver(t, a.handler, "127.0.0.1").Post(t.Context(), "msg_1", time.Now(), []byte("{}"))
		if err == nil || !strings.Contains(err.Error(), a.want) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "ANSWERED") {
			t.Errorf("one that %s: %v, want %s", name, err, a.want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := receiver(t, func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	}, "127.0.0.1")
	if err := r.Post(ctx, "msg_1", time.Now(), []byte("{}")); err == nil || !strings.Contains(err.Error(), "no answer within") {
		t.Errorf("one that hangs: %v", err)
	}
}

// An endless answer is not read to its end.
func TestLongAnswer(t *testing.T) {
	r := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		for part := make([]byte, 1<<16); ; {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	}, "127.0.0.1")
	if err := r.Post(t.Context(), "msg_1", time.Now(), []byte("{}")); err != nil {
		t.Error(err)
	}
}

// What a name means is judged when the connection is made, not when the URL is read.
func TestDialIsJudged(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was asked") }))
	defer s.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		err := receiverAt(t, "http://"+host+":"+port+"/", "10.0.0.0/8").Post(t.Context(), "msg_1", time.Now(), []byte("{}"))
		if err == nil || !strings.Contains(err.Error(), "no address of the public internet") {
			t.Errorf("%s: %v", host, err)
		}
	}
}

func TestNew(t *testing.T) {
	for address, ok := range map[string]bool{
		"https://hooks.example.com/x": true, "http://hooks.example.com/SECRET": false, "https://u:SECRET@h/": false, "": false,
		"https:///SECRET": false, "ftp://h/SECRET": false, "https://h/#SECRET": false, "https://h:%SECRET/": false,
	} {
		r, err := webhook.New(address, secret(t), guard.New(nil), false)
		if (err == nil) != ok || err != nil && strings.Contains(err.Error(), "SECRET") || ok && r.Host() != "hooks.example.com" {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// Another implementation, npm's standardwebhooks, takes our signature for its own, and no other.
// make test-webhooks installs it.
func TestVerifiedByAnother(t *testing.T) {
	modules, err := filepath.Abs("../../../.tools/standardwebhooks-1.1.1/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "standardwebhooks")); err != nil {
		if slices.Contains(strings.Split(os.Getenv("TOLLGATE_REQUIRE"), ","), "standardwebhooks") {
			t.Fatal(err)
		}
		t.Skip("SKIPPED, NOT TESTED: no standardwebhooks (make test-webhooks)")
	}
	const verify = `
const {Webhook} = require("standardwebhooks"), [secret, id, at, signature, body] = process.argv.slice(1);
console.log(JSON.stringify(new Webhook(secret).verify(body, {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature})))`
	at, body := time.Now(), `{"type":"quota.reached","data":{"team":"Größe ✓"}}`
	try := func(id, body string) (string, error) {
		c := exec.CommandContext(t.Context(), "node", "-e", verify, secretText, id, fmt.Sprint(at.Unix()), secret(t).Sign("msg_1", at, []byte(`{"type":"quota.reached","data":{"team":"Größe ✓"}}`)), body)
		c.Env = append(os.Environ(), "NODE_PATH="+modules)
		out, err := c.Output()
		return strings.TrimSpace(string(out)), err
	}
	if got, err := try("msg_1", body); err != nil || got != body {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := try("msg_2", body); err == nil {
		t.Error("another id is taken")
	}
	if _, err := try("msg_1", strings.Replace(body, "quota", "quotas", 1)); err == nil {
		t.Error("another body is taken")
	}
}
