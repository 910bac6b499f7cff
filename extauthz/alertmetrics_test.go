package extauthz_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"tollgate/extauthz"
	"tollgate/extauthz/extauthztest"
	"tollgate/policy/alerts/outbox"
)

// Without a webhook, and before anything was raised, the metrics are there and 0.
func TestAlertMetrics(t *testing.T) {
	const messages = `
# HELP tollgate_alert_messages_total Messages to the webhook, to Slack and by mail: sent; failed are tries, of which there are more for a day; dead were given up then, tollgate alerts shows them; no_room were never kept, because too many others waited; overtaken were tried here and by another server too.
# TYPE tollgate_alert_messages_total counter
tollgate_alert_messages_total{outcome="dead"} 0
tollgate_alert_messages_total{outcome="failed"} 0
tollgate_alert_messages_total{outcome="no_room"} 0
tollgate_alert_messages_total{outcome="overtaken"} 0
tollgate_alert_messages_total{outcome="sent"} N
# HELP tollgate_alert_sender 1 on the server that sends messages, 0 on the others.
# TYPE tollgate_alert_sender gauge
tollgate_alert_sender N
`
	want := func(n string, registry *prometheus.Registry) {
		t.Helper()
		if err := testutil.GatherAndCompare(registry, strings.NewReader(strings.ReplaceAll(messages, "N\n", n+"\n")), "tollgate_alert_messages_total", "tollgate_alert_sender"); err != nil {
			t.Error(err)
		}
	}
	none := prometheus.NewRegistry()
	extauthz.RegisterAlerts(none, func() uint64 { return 0 }, &outbox.Announcer{}, nil)
	want("0", none)

	box := outbox.New(extauthztest.NewRedis(t, "embedded"), nil)
	if _, err := box.Raise(t.Context(), &outbox.Notice{ID: "msg_1", Marks: []string{"1"}, Until: time.Now().Add(time.Hour), Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	sender := outbox.NewSender(box, map[string]outbox.Post{outbox.Webhook: func(context.Context, string, time.Time, []byte) error { return nil }})
	if err := sender.Tick(t.Context()); err != nil {
		t.Fatal(err)
	}
	one := prometheus.NewRegistry()
	extauthz.RegisterAlerts(one, func() uint64 { return 0 }, &outbox.Announcer{}, sender)
	want("1", one)
}
