package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/guard"
	"tollgate/policy/alerts/inspect"
	"tollgate/policy/alerts/mail"
	"tollgate/policy/alerts/networks"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/alerts/rates"
	"tollgate/policy/alerts/watch"
	"tollgate/policy/alerts/webhook"
	"tollgate/policy/keys/smallfile"
	"tollgate/policy/usage"
)

// alerting is what tells somebody of keys. A nil one does nothing.
type alerting struct {
	log       *slog.Logger
	watcher   *watch.Watcher
	rates     *rates.Rates
	networks  *networks.Networks
	releases  *rates.Releases
	inspector *inspect.Inspector
	sender    *outbox.Sender // nil where nothing is sent
}

// waysOut are the ways by which alerts are sent, by the names of outbox, and where to.
type waysOut struct {
	posts map[string]outbox.Post
	hosts []slog.Attr
}

func (w *waysOut) add(name, host string, post outbox.Post) {
	w.posts[name], w.hosts = post, append(w.hosts, slog.String(name, host))
}

// newWaysOut reads the flags about alerts.
func newWaysOut(s *options) (w waysOut, err error) {
	w.posts = map[string]outbox.Post{}
	allowed, err := guard.ParseAllowed(s.alertAllow)
	if err != nil {
		return w, fmt.Errorf("--alert-allow: %w", err)
	}
	g := guard.New(allowed)
	if err := errors.Join(w.addWebhook(s, g, len(allowed) > 0), w.addSlack(s, g, len(allowed) > 0), w.addMail(s, g)); err != nil {
		return w, err
	}
	switch {
	case len(w.posts) == 0 && s.alertAllow != "":
		return w, errors.New("--alert-allow is for --alert-webhook, --alert-slack-url-file and --alert-mail-server, none of which is given")
	case len(w.posts) > 0 && !s.usage:
		return w, errors.New("--alert-webhook, --alert-slack-url-file, --alert-mail-server: needs --usage, which says which keys are used")
	}
	return w, nil
}

func (w *waysOut) addWebhook(s *options, g *guard.Guard, allowsHTTP bool) error {
	switch {
	case s.alertWebhook == "" && s.alertSecretFile == "":
		return nil
	case s.alertWebhook == "":
		return errors.New("--alert-secret-file is for --alert-webhook, which is not given")
	case s.alertSecretFile == "":
		return errors.New("--alert-webhook: give --alert-secret-file, with what messages are signed with")
	}
	text, err := smallfile.Read(s.alertSecretFile, 1024)
	if err != nil {
		return fmt.Errorf("--alert-secret-file: %w", err)
	}
	secret, err := webhook.ParseSecret(string(text))
	if err != nil {
		return fmt.Errorf("--alert-secret-file %s: %w", s.alertSecretFile, err)
	}
	r, err := webhook.New(s.alertWebhook, secret, g, allowsHTTP)
	if err != nil {
		return fmt.Errorf("--alert-webhook: %w", err)
	}
	w.add(outbox.Webhook, r.Host(), r.Post)
	return nil
}

func (w *waysOut) addSlack(s *options, g *guard.Guard, allowsHTTP bool) error {
	if s.alertSlackFile == "" {
		return nil
	}
	text, err := smallfile.Read(s.alertSlackFile, 4096)
	if err != nil {
		return fmt.Errorf("--alert-slack-url-file: %w", err)
	}
	r, err := webhook.NewSlack(strings.TrimSpace(string(text)), g, allowsHTTP)
	if err != nil {
		return fmt.Errorf("--alert-slack-url-file %s: %w", s.alertSlackFile, err)
	}
	w.add(outbox.Slack, r.Host(), r.Post)
	return nil
}

func (w *waysOut) addMail(s *options, g *guard.Guard) error {
	c := s.alertMail
	if c.Server == "" {
		if c.From+c.To+c.User+s.alertMailSecret != "" {
			return errors.New("--alert-mail-from, -to, -user and -password-file are for --alert-mail-server, which is not given")
		}
		return nil
	}
	if s.alertMailSecret != "" {
		text, err := smallfile.Read(s.alertMailSecret, 1024)
		if err != nil {
			return fmt.Errorf("--alert-mail-password-file: %w", err)
		}
		c.Password = strings.TrimRight(string(text), "\r\n")
	}
	m, err := mail.New(c, g)
	if err != nil {
		return fmt.Errorf("--alert-mail-server, -from, -to, -user, -password-file: %w", err)
	}
	w.add(outbox.Mail, m.Server(), m.Post)
	return nil
}

// newAlerting makes what looks at the keys whose usage is written, what looks at all keys, and what
// sends; nil where usage is not counted.
func (v *service) newAlerting(w waysOut, replicas int) *alerting {
	if v.usage == nil {
		return nil
	}
	a, box := &alerting{log: v.log}, outbox.New(v.storage.Client, nil)
	announcer := &outbox.Announcer{Outbox: box, Ways: slices.Sorted(maps.Keys(w.posts)), Told: a.tell}
	a.watcher = &watch.Watcher{Policies: v.policies.Current, Records: v.records, Counters: v.counters, Announcer: announcer}
	a.rates = rates.New(v.policies.Current, v.records, announcer, replicas, time.Now)
	a.releases = &rates.Releases{Policies: v.policies.Current, Announcer: announcer, Lost: v.losesReleases, Now: time.Now}
	a.networks = networks.New(v.policies.Current, networks.NewKnown(v.storage.Client, nil), announcer)
	a.inspector = inspect.New(v.policies.Current, v.records, box, announcer)
	if len(w.posts) > 0 {
		a.sender = outbox.NewSender(box, w.posts)
		v.log.LogAttrs(context.Background(), slog.LevelInfo, "alerts are sent", w.hosts...)
	}
	v.usage.writer.Tell(func(d *usage.Delta) {
		a.rates.Add(d)
		if d.Key != "" {
			a.watcher.Used(d.API, d.Key)
		}
	})
	passed := func() uint64 { return a.watcher.Passed() + a.rates.Passed() + a.networks.Stats().Passed }
	extauthz.RegisterAlerts(v.registry, passed, announcer, a.sender)
	return a
}

// losesReleases reports whether too many places of requests under way end by themselves.
func (v *service) losesReleases() bool {
	return slices.ContainsFunc(v.slotTroubles(), func(t extauthz.SlotTrouble) bool { return t.Problem == extauthz.SlotsExpired })
}

func (a *alerting) tell(of *alerts.Alert) {
	told := []slog.Attr{
		slog.String("type", of.Type), slog.String("api", of.API), slog.String("team", of.Team), slog.String("key", of.Key), slog.String("plan", of.Plan),
	}
	for _, d := range of.Details {
		told = append(told, slog.Any(d.Name, d.Value))
	}
	a.log.LogAttrs(context.Background(), slog.LevelWarn, of.Headline(), told...)
}

// sightings returns what hears from where keys are used, nil for nobody.
func (a *alerting) sightings() extauthz.Sightings {
	if a == nil {
		return nil
	}
	return a.networks
}

// run looks and sends until ctx ends.
func (a *alerting) run(ctx context.Context) {
	if a == nil {
		return
	}
	var work sync.WaitGroup
	run := func(message string, run func(context.Context, func(error))) {
		work.Go(func() {
			trouble := troubles{log: a.log, message: message + "; it is tried again"}
			run(ctx, trouble.tell)
		})
	}
	run("keys were not looked at for alerts", a.watcher.Run)
	run("the store's keys were not looked through for alerts", a.inspector.Run)
	run("failed and refused requests were not told of", a.rates.Run)
	run("networks of keys were not looked up for alerts", a.networks.Run)
	run("lost releases were not told of", a.releases.Run)
	if a.sender != nil {
		run("alerts were not sent", a.sender.Run)
	}
	work.Wait()
}
