package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/redis/go-redis/v9"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"tollgate/cmd/tollgate/exit"
	"tollgate/cmd/tollgate/tollgatetest"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// alerted is a receiver of alerts.
type alerted struct {
	mu       sync.Mutex
	messages []string // id and body, of those that were signed with a time of now
	slack    []string // bodies
}

func (a *alerted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	if r.URL.Path == "/slack" {
		a.slack = append(a.slack, string(body))
		return
	}
	if !strings.HasPrefix(r.Header.Get("webhook-signature"), "v1,") {
		http.Error(w, "not signed", http.StatusUnauthorized)
		return
	}
	a.messages = append(a.messages, r.Header.Get("webhook-id")+" "+string(body))
}

func (a *alerted) all() string { return a.of("") }

// of returns the messages of a type.
func (a *alerted) of(kind string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(slices.DeleteFunc(slices.Clone(a.messages), func(m string) bool {
		return !strings.Contains(m, kind)
	}), "\n")
}

// Two servers let a key spend more than half of its month, from two networks, its requests fail,
// and they have a key that will expire: the webhook is told once of each, and so is Slack. What the
// webhook did not take for a day is shown, and sent again when the operator says so.
func TestAlertsReachTheWebhook(t *testing.T) {
	dir, got := tollgatetest.ShortDir(t), &alerted{}
	receiver := httptest.NewServer(got)
	defer receiver.Close()
	small := strings.NewReplacer("requests: 60,", "requests: 6000,", "requests: 1000,", "requests: 100,").Replace(string(readFile(t, "../../testdata/small.yaml")))
	policy, secretFile := filepath.Join(dir, "alerts.yaml"), filepath.Join(dir, "secret")
	tollgatetest.WriteFile(t, policy, []byte(small+"alerts: {quota: [50, 100], expiring_within_days: 14, new_network_after_days: 0, error_rate: {percent: 50, requests: 20}}\n"))
	tollgatetest.WriteFile(t, filepath.Join(dir, "slack"), []byte(receiver.URL+"/slack?token=SECRET\n"))
	tollgatetest.WriteFile(t, secretFile, []byte("whsec_"+base64.StdEncoding.EncodeToString(make([]byte, 24))))
	f := startServers(t, 2, "--policy", policy, "--keys", expiringKey(t, dir), "--alert-webhook", receiver.URL+"/hook?token=SECRET", "--alert-secret-file", secretFile, "--alert-slack-url-file", filepath.Join(dir, "slack"), "--alert-allow", "127.0.0.1")
	secret := keys.Seal("jb_", "AKeyOfTheTestOfAlerts000000")
	k := &keys.Key{ID: "key_alerted", API: "jobs", Team: "acme", Name: "n", Plan: "free", Scopes: []string{"read"}, LimitID: "key_alerted", Status: keys.Active,
		AnchorDay: 1, Version: 1, Algorithm: keys.AlgorithmHMACSHA256, Digest: keys.NewHasher(nil).Digest(secret)}
	if err := store.New(f.admin).Create(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	var failed []*datav3.HTTPAccessLogEntry
	for i := range 60 {
		response, err := f.replicas[i%2].Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			Source: &authv3.AttributeContext_Peer{Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
				SocketAddress: &corev3.SocketAddress{Address: []string{"203.0.113.7", "198.51.100.7"}[i%2]},
			}}},
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Host: "jobs.example.com", Method: "GET", Path: "/v1/jobs/17",
				HeaderMap: &corev3.HeaderMap{Headers: []*corev3.HeaderValue{{Key: "authorization", RawValue: []byte("Bearer " + secret)}}},
			}},
		}})
		if err != nil || response.GetOkResponse() == nil {
			t.Fatal(response, err)
		}
		failed = append(failed, failure(response))
	}
	f.log503(t, failed)
	eventually(t, "an alert about the key that expires", func() bool { return got.of("key.expiring") != "" })
	if all := got.of("key.expiring"); strings.Count(all, "\n") != 0 || !strings.Contains(all, `"api":"jobs","team":"acme","key":"key_expiring","plan":"free","expires":"`) {
		t.Errorf("the webhook has %s", all)
	}
	eventually(t, "an alert", func() bool { return got.of("quota.reached") != "" })
	if all := got.of("quota.reached"); strings.Count(all, "\n") != 0 || !strings.Contains(all, `"key":"key_alerted","plan":"free","limit":"month","per":"month","percent":50,"spent":60,"size":100`) {
		t.Errorf("the webhook has %s", all)
	}
	eventually(t, "an alert about the second network", func() bool { return got.of("key.new_network") != "" })
	if all := got.of("key.new_network"); strings.Count(all, "\n") != 0 || !strings.Contains(all, `"key":"key_alerted","plan":"free","network":"`) || !strings.Contains(all, `"networks":2`) {
		t.Errorf("the webhook has %s", all)
	}
	eventually(t, "an alert about requests that fail", func() bool { return got.of("error_rate.exceeded") != "" })
	if all := got.of("error_rate.exceeded"); strings.Count(all, "\n") != 0 || !strings.Contains(all, `"data":{"api":"jobs","failed":`) || !strings.Contains(all, `"percent":50,"minutes":10}`) {
		t.Errorf("the webhook has %s", all)
	}
	eventually(t, "Slack", func() bool {
		got.mu.Lock()
		defer got.mu.Unlock()
		return len(got.slack) >= 4
	})
	if all := strings.Join(got.slack, "\n"); len(got.slack) != 4 || strings.Count(all, `{"text":"*a key will expire*\napi: jobs\nteam: acme\nkey: key_expiring\n`) != 1 {
		t.Errorf("Slack has %s", all)
	}
	raised := map[string]int{}
	for i := range f.http {
		for _, kind := range []string{"quota.reached", "key.expiring", "key.new_network"} {
			raised[kind] += strings.Count(f.page(t, i, "/metrics"), `tollgate_alerts_total{api="jobs",type="`+kind+`"} 1`)
		}
	}
	if raised["quota.reached"] != 1 || raised["key.expiring"] != 1 || raised["key.new_network"] != 1 || strings.Contains(f.log.String(), "SECRET") {
		t.Errorf("raised by %v servers:\n%s", raised, f.log.String())
	}
	f.replaysADeadAlert(t, got)
}

// failure is what Envoy's access log says of a request that was allowed, and ended with 503.
func failure(allowed *authv3.CheckResponse) *datav3.HTTPAccessLogEntry {
	return &datav3.HTTPAccessLogEntry{
		CommonProperties: &datav3.AccessLogCommon{
			AccessLogType: datav3.AccessLogType_DownstreamEnd, StartTime: timestamppb.Now(),
			Metadata: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ext_authz": allowed.GetDynamicMetadata()}},
		},
		Response: &datav3.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(503)},
	}
}

// log503 sends the first server an access log.
func (f *fleet) log503(t *testing.T, entries []*datav3.HTTPAccessLogEntry) {
	t.Helper()
	var chosen struct{ GRPC string }
	if err := json.Unmarshal(readFile(t, filepath.Join(f.dir, "addresses0")), &chosen); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(chosen.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := accesslogv3.NewAccessLogServiceClient(conn).StreamAccessLogs(t.Context())
	if err == nil {
		err = stream.Send(&accesslogv3.StreamAccessLogsMessage{
			Identifier: &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "edge"}, LogName: "tollgate"},
			LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}},
		})
	}
	if err == nil {
		_, err = stream.CloseAndRecv()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// expiringKey returns a keys file with one that expires in three days.
func expiringKey(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "keys.yaml")
	tollgatetest.WriteFile(t, path, fmt.Appendf(nil, `keys:
- {id: key_expiring, api: jobs, team: acme, name: n, plan: free, hash: "%s:%s", expires_at: %s}
`, keys.AlgorithmHMACSHA256, keys.NewHasher(nil).Digest(keys.Seal("jb_", "AnotherOfTheTestOfAlerts000")).Hex(), time.Now().Add(72*time.Hour).UTC().Format(time.RFC3339)))
	return path
}

// page returns a page of a server.
func (f *fleet) page(t *testing.T, i int, path string) string {
	t.Helper()
	response, err := http.Get("http://" + f.http[i] + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func (f *fleet) replaysADeadAlert(t *testing.T, got *alerted) {
	t.Helper()
	id := "msg_" + strings.Repeat("0f", 16)
	f.killAlert(t, id)
	code, out, stderr := command(t, "alerts", "--store", f.url("cli"))
	if code != exit.CodeOK || !strings.Contains(out, id+"  dead ") || !strings.Contains(out, "key_dead  month 90 %  answered 500") {
		t.Fatalf("%d, %s%s", code, out, stderr)
	}
	if code, out, _ := command(t, "alerts", "--store", f.url("cli"), "-o", "json"); code != exit.CodeOK || !strings.Contains(out, `"message":{"data":{"key":"key_dead"`) {
		t.Errorf("%d, %s", code, out)
	}
	if code, out, stderr := command(t, "alerts", "--store", f.url("cli"), "--replay", id); code != exit.CodeOK || out != id+" is sent again\n" {
		t.Errorf("%d, %s%s", code, out, stderr)
	}
	eventually(t, "the alert that was given up", func() bool { return strings.Contains(got.all(), id) })
	if code, _, stderr := command(t, "alerts", "--store", f.url("cli"), "--replay", id); code == exit.CodeOK || !strings.Contains(stderr, "no message with this id was given up") {
		t.Errorf("%d, %s", code, stderr)
	}
	if code, _, stderr := command(t, "alerts", "--replay", "SECRET"); code != exit.CodeUsage || strings.Contains(stderr, "SECRET") {
		t.Errorf("%d, %s", code, stderr)
	}
}

// killAlert leaves in Redis what is there of a message that the webhook has not taken for a day.
func (f *fleet) killAlert(t *testing.T, id string) {
	t.Helper()
	const prefix = "tg:v1:alerts:{alerts}:"
	record := `{"body":{"data":{"key":"key_dead","limit":"month","percent":90}},"first":1,"tries":20,"error":"answered 500"}`
	if err := errors.Join(f.admin.HSet(t.Context(), prefix+"messages", id, record).Err(), f.admin.ZAdd(t.Context(), prefix+"dead", redis.Z{Score: 1, Member: id}).Err()); err != nil {
		t.Fatal(err)
	}
}
