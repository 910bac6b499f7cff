package extauthz

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/alerts/outbox"
)

// alertCollector reads the counts of alerts at each scrape.
type alertCollector struct {
	unseen    func() uint64
	announcer *outbox.Announcer
	sender    *outbox.Sender // nil where nothing is sent

	raised, passed, messages, holder *prometheus.Desc
}

// RegisterAlerts registers the metrics of alerts. passed counts the keys that were not looked at,
// and sender is nil where nothing is sent.
func RegisterAlerts(r prometheus.Registerer, passed func() uint64, a *outbox.Announcer, sender *outbox.Sender) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&alertCollector{
		unseen: passed, announcer: a, sender: sender,
		raised:   desc("tollgate_alerts_total", "Alerts that this server has raised, by API and type; no other server raises the same.", "api", "type"),
		passed:   desc("tollgate_alert_keys_passed_total", "Used keys that were not looked at for alerts, because too many others waited. They may be after their next use."),
		messages: desc("tollgate_alert_messages_total", "Messages to the webhook, to Slack and by mail: sent; failed are tries, of which there are more for a day; dead were given up then, tollgate alerts shows them; no_room were never kept, because too many others waited; overtaken were tried here and by another server too.", "outcome"),
		holder:   desc("tollgate_alert_sender", "1 on the server that sends messages, 0 on the others."),
	})
}

// Describe implements prometheus.Collector.
func (c *alertCollector) Describe(out chan<- *prometheus.Desc) {
	prometheus.DescribeByCollect(c, out)
}

// Collect implements prometheus.Collector.
func (c *alertCollector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	announced := c.announcer.Stats()
	for of, n := range announced.Raised {
		counter(c.raised, n, of.API, of.Type)
	}
	counter(c.passed, c.unseen())
	var s outbox.SenderStats
	if c.sender != nil {
		s = c.sender.Stats()
	}
	counter(c.messages, s.Sent, "sent")
	counter(c.messages, s.Failed, "failed")
	counter(c.messages, s.Dead, "dead")
	counter(c.messages, announced.NoRoom, "no_room")
	counter(c.messages, s.Overtaken, "overtaken")
	holds := 0.0
	if s.Holder {
		holds = 1
	}
	out <- prometheus.MustNewConstMetric(c.holder, prometheus.GaugeValue, holds)
}
