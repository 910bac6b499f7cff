package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tollgate/policy/keys"
	"tollgate/policy/keys/roles"
	"tollgate/policy/keys/store"
)

// entitled refuses what would give a key more than the team of a member has been given: a plan that
// is not one of the team's, and a limit above that of the plan, or above what the operator gave
// this key before. Old is nil for a new key. What a key has already stays, also if the team has
// been given less since.
func (m *Manager) entitled(ctx context.Context, old, next *keys.Key) error {
	if m.who.Operator {
		return nil
	}
	samePlan := old != nil && old.Plan == next.Plan
	if !samePlan && next.Plan != "" {
		if err := m.entitledToPlan(ctx, next); err != nil {
			return err
		}
	}
	for _, o := range next.Limits {
		size, known := m.rules.Limit(next.API, next.Plan, o.Name)
		had := func(before keys.Override) bool { return before.Name == o.Name && before.Requests >= o.Requests }
		if known && o.Requests <= size || samePlan && slices.ContainsFunc(old.Limits, had) {
			continue
		}
		if err := m.who.Check(roles.ActionRaiseLimit, next.API, next.Team); err != nil {
			return fmt.Errorf("%w; limit %s of plan %s is %d, and can only be made smaller", err, keys.Quote(o.Name), keys.Quote(next.Plan), size)
		}
	}
	return nil
}

func (m *Manager) entitledToPlan(ctx context.Context, k *keys.Key) error {
	var plans []string
	team, err := m.store.Team(ctx, k.API, k.Team)
	if err != nil && !errors.Is(err, store.ErrNoTeam) {
		return err
	}
	if err == nil {
		plans = team.Plans
	}
	if slices.Contains(plans, k.Plan) {
		return nil
	}
	if err := m.who.Check(roles.ActionAnyPlan, k.API, k.Team); err != nil {
		has := "has no plan yet"
		if len(plans) > 0 {
			has = "has " + strings.Join(plans, ", ")
		}
		return fmt.Errorf("%w; plan %s is not one of the team's, which %s", err, keys.Quote(k.Plan), has)
	}
	return nil
}
