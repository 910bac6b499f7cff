package scrape

import (
	"github.com/prometheus/client_golang/prometheus"

	"tollgate/policy/oauth/introspection"
	"tollgate/policy/oauth/issuer"
	"tollgate/policy/oauth/tokens"
)

// tokenCollector reads the counts of access tokens, and of issuers, at each scrape.
type tokenCollector struct {
	verifier *tokens.Verifier
	keeper   *issuer.Keeper
	asker    *introspection.Asker

	uses, known, bytes, fetches, keys, fetched, awaited, asked, answers *prometheus.Desc
}

// RegisterTokens registers the metrics of access tokens and of their issuers.
func RegisterTokens(r prometheus.Registerer, v *tokens.Verifier, k *issuer.Keeper, a *introspection.Asker) {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	r.MustRegister(&tokenCollector{
		verifier: v, keeper: k, asker: a,
		uses:    desc("tollgate_token_uses_total", "Uses of access tokens by outcome: known was verified before; verified now; refused; undecided could not be found out; busy are those of the undecided for which no place was free to be verified.", "outcome"),
		known:   desc("tollgate_tokens", "Verified access tokens in memory."),
		bytes:   desc("tollgate_token_bytes", "Memory that they take, about."),
		fetches: desc("tollgate_issuer_fetches_total", "Fetches of issuers' keys.", "issuer", "outcome"),
		keys:    desc("tollgate_issuer_keys", "Keys of an issuer that tokens are verified with; 0 where none may be used.", "issuer"),
		fetched: desc("tollgate_issuer_fetched_timestamp_seconds", "When an issuer's keys were fetched; 0 for never.", "issuer"),
		awaited: desc("tollgate_issuer_unknown_keys", "Names of keys that tokens came with and the issuer does not have, or not yet.", "issuer"),
		asked:   desc("tollgate_introspection_calls_total", "Calls that ask an issuer about a token, by outcome: answered; failed; busy were not made, because too many were.", "issuer", "outcome"),
		answers: desc("tollgate_introspection_answers", "Answers of issuers about tokens in memory: active, and inactive.", "state"),
	})
}

// Describe implements prometheus.Collector.
func (c *tokenCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.uses, c.known, c.bytes, c.fetches, c.keys, c.fetched, c.awaited, c.asked, c.answers} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *tokenCollector) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	s := c.verifier.Stats()
	counter(c.uses, s.Hits, "known")
	counter(c.uses, s.Verified, "verified")
	counter(c.uses, s.Refused, "refused")
	counter(c.uses, s.Undecided-min(s.Busy, s.Undecided), "undecided")
	counter(c.uses, s.Busy, "busy")
	gauge(c.known, float64(s.Tokens))
	gauge(c.bytes, float64(s.Bytes))
	for _, i := range c.keeper.Status() {
		counter(c.fetches, i.Fetches, i.Issuer, "succeeded")
		counter(c.fetches, i.Failures, i.Issuer, "failed")
		gauge(c.keys, float64(i.Keys), i.Issuer)
		at := 0.0
		if !i.FetchedAt.IsZero() {
			at = float64(i.FetchedAt.Unix())
		}
		gauge(c.fetched, at, i.Issuer)
		gauge(c.awaited, float64(i.Awaited), i.Issuer)
	}
	for _, i := range c.asker.Status() {
		counter(c.asked, i.Calls, i.Issuer, "answered")
		counter(c.asked, i.Failures, i.Issuer, "failed")
		counter(c.asked, i.Busy, i.Issuer, "busy")
	}
	active, inactive := c.asker.Kept()
	gauge(c.answers, float64(active), "active")
	gauge(c.answers, float64(inactive), "inactive")
}
