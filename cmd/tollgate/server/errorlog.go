package server

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"tollgate/extauthz"
	"tollgate/policy/errorlog"
	"tollgate/policy/errorlog/journal"
	"tollgate/policy/keys"
	"tollgate/policy/keys/store"
)

// errorLog is what samples requests that were refused or failed, and keeps them in the store. A nil
// one does nothing.
type errorLog struct {
	log     *slog.Logger
	entries *errorlog.Log
	writer  *journal.Writer
}

// newErrorLog makes both; nil with --error-log=false.
func (v *service) newErrorLog(s *options) *errorLog {
	if !s.errorLog {
		return nil
	}
	e := &errorLog{log: v.log, entries: errorlog.New(v.policies.FindRoute, time.Now)}
	e.writer = journal.NewWriter(v.storage.Client, e.entries, v.apisOf, journal.Options{Days: v.policies.ErrorDays})
	extauthz.RegisterErrorLog(v.registry, e.entries, e.writer)
	return e
}

// sampled returns what is told of errors, nil for none.
func (e *errorLog) sampled() *errorlog.Log {
	if e == nil {
		return nil
	}
	return e.entries
}

// run writes until ctx ends, and then what is left.
func (e *errorLog) run(ctx context.Context) {
	if e == nil {
		return
	}
	trouble := troubles{log: e.log, message: "errors were not written; they are kept and tried again"}
	e.writer.Run(ctx, trouble.tell)
}

// apisOf returns of which API keys are, "" for one that there is not, or not any more.
func (v *service) apisOf(ctx context.Context, ids []string) ([]string, error) {
	found, err := v.records.ReadAll(ctx, ids)
	if err != nil {
		return nil, err
	}
	apis := make([]string, len(ids))
	for i, f := range found {
		var corrupt *keys.CorruptError
		switch {
		case f.Err == nil:
			apis[i] = f.Key.API
		case !errors.Is(f.Err, store.ErrNoKey) && !errors.As(f.Err, &corrupt):
			return nil, f.Err
		}
	}
	return apis, nil
}
