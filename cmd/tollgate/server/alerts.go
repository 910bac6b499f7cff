package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"tollgate/extauthz"
	"tollgate/policy/alerts"
	"tollgate/policy/alerts/inspect"
	"tollgate/policy/alerts/outbox"
	"tollgate/policy/alerts/watch"
	"tollgate/policy/alerts/webhook"
	"tollgate/policy/keys/smallfile"
	"tollgate/policy/usage"
)

// alerting is what tells somebody of keys. A nil one does nothing.
type alerting struct {
	log       *slog.Logger
	watcher   *watch.Watcher
	inspector *inspect.Inspector
	sender    *outbox.Sender // nil without --alert-webhook
}

// newReceiver reads the flags about the webhook; nil without one.
func newReceiver(s *options) (*webhook.Receiver, error) {
	allowed, err := webhook.ParseAllowed(s.alertAllow)
	if err != nil {
		return nil, fmt.Errorf("--alert-allow: %w", err)
	}
	if s.alertWebhook == "" {
		if s.alertSecretFile != "" || s.alertAllow != "" {
			return nil, errors.New("--alert-secret-file and --alert-allow are for --alert-webhook, which is not given")
		}
		return nil, nil
	}
	if !s.usage {
		return nil, errors.New("--alert-webhook: needs --usage, which says which keys are used")
	}
	if s.alertSecretFile == "" {
		return nil, errors.New("--alert-webhook: give --alert-secret-file, with what messages are signed with")
	}
	text, err := smallfile.Read(s.alertSecretFile, 1024)
	if err != nil {
		return nil, fmt.Errorf("--alert-secret-file: %w", err)
	}
	secret, err := webhook.ParseSecret(string(text))
	if err != nil {
		return nil, fmt.Errorf("--alert-secret-file %s: %w", s.alertSecretFile, err)
	}
	r, err := webhook.New(s.alertWebhook, secret, webhook.NewGuard(allowed), len(allowed) > 0)
	if err != nil {
		return nil, fmt.Errorf("--alert-webhook: %w", err)
	}
	return r, nil
}

// newAlerting makes what looks at the keys whose usage is written, what looks at all keys, and what
// sends; nil where usage is not counted.
func (v *service) newAlerting(r *webhook.Receiver) *alerting {
	if v.usage == nil {
		return nil
	}
	a, box := &alerting{log: v.log}, outbox.New(v.storage.Client, nil)
	announcer := &outbox.Announcer{Outbox: box, Sends: r != nil, Told: a.tell}
	a.watcher = &watch.Watcher{Policies: v.policies.Current, Records: v.records, Counters: v.counters, Announcer: announcer}
	a.inspector = inspect.New(v.policies.Current, v.records, box, announcer)
	if r != nil {
		a.sender = outbox.NewSender(box, r.Post)
		v.log.Info("alerts go to a webhook", slog.String("host", r.Host()))
	}
	v.usage.writer.Tell(func(d *usage.Delta) {
		if d.Key != "" {
			a.watcher.Used(d.API, d.Key)
		}
	})
	extauthz.RegisterAlerts(v.registry, a.watcher, announcer, a.sender)
	return a
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

// run looks and sends until ctx ends.
func (a *alerting) run(ctx context.Context) {
	if a == nil {
		return
	}
	var work sync.WaitGroup
	work.Go(func() {
		trouble := troubles{log: a.log, message: "keys were not looked at for alerts; it is tried again"}
		a.watcher.Run(ctx, trouble.tell)
	})
	work.Go(func() {
		trouble := troubles{log: a.log, message: "the store's keys were not looked through for alerts; it is tried again"}
		a.inspector.Run(ctx, trouble.tell)
	})
	if a.sender != nil {
		work.Go(func() {
			trouble := troubles{log: a.log, message: "alerts were not sent; it is tried again"}
			a.sender.Run(ctx, trouble.tell)
		})
	}
	work.Wait()
}
