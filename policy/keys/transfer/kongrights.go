package transfer

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"tollgate/policy/keys/keyfile"
	"tollgate/policy/keys/strictyaml"
)

// restriction is what narrows the keys of a consumer.
type restriction struct {
	scopes, ips []string
	limits      []keyfile.Limit
	together    bool // the consumer's keys count as one
}

func (r *restriction) any() bool { return len(r.scopes)+len(r.ips)+len(r.limits) > 0 }

// plugin is one of Kong's plugins where it stands. Without a consumer or group it is for all of
// them.
type plugin struct {
	node  *node
	name  string
	of    *consumer
	group *node
	route bool // it is for one service or route only
}

// narrowing plugins are looked at wherever they stand. Any other one is a part of the API that the
// keys are for, unless it is a consumer's or a group's own.
func narrowing(name string) bool {
	return slices.Contains([]string{
		"acl", "ip-restriction", "rate-limiting", "rate-limiting-advanced", "response-ratelimiting", "ai-rate-limiting-advanced",
		"graphql-rate-limiting-advanced", "request-size-limiting", "request-termination", "request-validator", "bot-detection", "opa",
	}, name)
}

// harmless plugins narrow nobody, also where they are a consumer's own.
func harmless(name string) bool {
	return slices.Contains([]string{
		"correlation-id", "datadog", "file-log", "http-log", "kafka-log", "loggly", "opentelemetry", "prometheus", "proxy-cache",
		"proxy-cache-advanced", "request-transformer", "request-transformer-advanced", "response-transformer",
		"response-transformer-advanced", "statsd", "statsd-advanced", "syslog", "tcp-log", "udp-log", "zipkin",
	}, name)
}

// pluginsOf takes all plugins of a document: those of the whole, of services and routes, of
// consumers and their groups.
func (k *kong) pluginsOf(root *node) error {
	var errs []error
	each := func(n *node, name string, take func(*node)) {
		all, err := listOf(n, name)
		errs = append(errs, err)
		for _, one := range all {
			take(one)
		}
	}
	routes := func(n *node) {
		each(n, "plugins", func(p *node) { errs = append(errs, k.plugin(plugin{node: p, route: true})) })
	}
	each(root, "plugins", func(p *node) { errs = append(errs, k.plugin(plugin{node: p})) })
	each(root, "routes", routes)
	each(root, "services", func(n *node) {
		routes(n)
		each(n, "routes", routes)
	})
	each(root, "consumer_groups", func(g *node) {
		each(g, "plugins", func(p *node) { errs = append(errs, k.plugin(plugin{node: p, group: g})) })
	})
	each(root, "consumer_group_plugins", func(p *node) { errs = append(errs, k.plugin(plugin{node: p})) })
	for _, c := range k.consumers {
		if c.root == root {
			each(c.node, "plugins", func(p *node) { errs = append(errs, k.plugin(plugin{node: p, of: c})) })
		}
	}
	return errors.Join(errs...)
}

func (k *kong) plugin(p plugin) error {
	n := p.node
	if p.name = n.Field("name").String(); p.name == "" {
		return &fault{n.Line, "a plugin without a name"}
	}
	if ref := n.Field("consumer"); ref != nil && p.of == nil {
		c, err := k.consumer(ref)
		if errors.Is(err, errNoConsumer) {
			k.ignore(n, "plugin %s: its consumer is not in the file", shown(p.name))
			return nil
		}
		if err != nil {
			return &fault{n.Line, err.Error()}
		}
		p.of = c
	}
	if ref := n.Field("consumer_group"); ref != nil && p.group == nil {
		if p.group = k.group(ref); p.group == nil {
			k.ignore(n, "plugin %s: its consumer group is not in the file", shown(p.name))
			return nil
		}
	}
	p.route = p.route || n.Field("service") != nil || n.Field("route") != nil
	switch {
	case scalar(n.Field("enabled")) == "false":
		k.ignore(n, "plugin %s: it is not enabled", shown(p.name))
	case slices.Contains(k.o.Drop, p.name):
		k.ignore(n, "plugin %s: dropped, as asked", shown(p.name))
	case p.of != nil && !harmless(p.name):
		p.of.plugins = append(p.of.plugins, p)
	case p.group != nil && !harmless(p.name), p.of == nil && p.group == nil && narrowing(p.name):
		k.plugins = append(k.plugins, p)
	default:
		k.ignore(n, "plugin %s: it narrows no key", shown(p.name))
	}
	return nil
}

// group follows a reference to a consumer group: its name or id, a mapping with one of them, or the
// group itself.
func (k *kong) group(ref *node) *node {
	for _, name := range []string{scalar(ref), scalar(ref.Field("id")), scalar(ref.Field("name"))} {
		if g := k.groups[name]; name != "" && g != nil {
			return g
		}
	}
	return nil
}

// rights judges a consumer once.
func (k *kong) rights(c *consumer) (restriction, error) {
	if !c.judged {
		c.judged = true
		c.rights, c.err = k.judge(c)
	}
	return c.rights, c.err
}

func (k *kong) judge(c *consumer) (r restriction, err error) {
	if odd := unknownField(c.node, append(otherCredentials(), "id", "username", "custom_id", "tags", "created_at", "updated_at",
		"type", "username_lower", "keyauth_credentials", "acls", "plugins", "groups", "_comment", "_ignore")...); odd != "" {
		return r, fmt.Errorf("the consumer on line %d has a field %s, which is not known and could narrow its keys", c.node.Line, shown(odd))
	}
	var groups []*node
	for _, ref := range c.groups {
		g := k.group(ref)
		if g == nil {
			return r, fmt.Errorf("the consumer is in a consumer group that is not in the file (line %d), and could narrow the key", cmp.Or(ref, c.node).Line)
		}
		if !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	var all []*plugin
	for i := range k.plugins {
		if p := &k.plugins[i]; p.group == nil || slices.Contains(groups, p.group) {
			all = append(all, p)
		}
	}
	for i := range c.plugins {
		all = append(all, &c.plugins[i])
	}
	if r.scopes, err = k.scopes(c, groups, all); err != nil {
		return r, err
	}
	var done []string
	for _, p := range all {
		if p.name == "acl" || slices.Contains(done, p.name) {
			continue
		}
		done = append(done, p.name)
		if p, err = effective(p.name, all); err == nil {
			err = k.take(p, &r)
		}
		if err != nil {
			return restriction{}, err
		}
	}
	return r, nil
}

// effective returns which of a consumer's plugins of one name is in force: as in Kong, its own,
// else that of a group, else that of a route or service, else that for all.
func effective(name string, all []*plugin) (*plugin, error) {
	var levels [4][]*plugin
	for _, p := range all {
		switch {
		case p.name != name:
		case p.of != nil:
			levels[0] = append(levels[0], p)
		case p.group != nil:
			levels[1] = append(levels[1], p)
		case p.route:
			levels[2] = append(levels[2], p)
		default:
			levels[3] = append(levels[3], p)
		}
	}
	for _, level := range levels {
		for _, p := range level {
			if p.route {
				return nil, p.refusal("is for one service or route only")
			}
		}
		if len(level) > 1 {
			return nil, level[0].refusal(fmt.Sprintf("is there again on line %d", level[1].node.Line))
		}
		if len(level) == 1 {
			return level[0], nil
		}
	}
	return nil, errors.New("no plugin " + name) // cannot be: one of them has the name
}

// refusal says why a plugin cannot be taken over, and what can be done about it.
func (p *plugin) refusal(why string) error {
	return fmt.Errorf("plugin %s on line %d narrows the key and %s; if the policy does the same, give --drop-plugin %s",
		shown(p.name), p.node.Line, why, shown(p.name))
}

// take makes the key's own restriction of a plugin.
func (k *kong) take(p *plugin, r *restriction) error {
	switch p.name {
	case "ip-restriction":
		return k.addresses(p, r)
	case "rate-limiting":
		return k.rates(p, r, "limit_by")
	case "rate-limiting-advanced":
		return k.rates(p, r, "identifier")
	}
	return p.refusal("is not taken over")
}

// config returns a setting of a plugin, also from decK's shared ones.
func (k *kong) config(p *plugin, name string) *node {
	if v := p.node.Field("config", name); v != nil {
		return v
	}
	if shared := scalar(p.node.Field("_config")); shared != "" {
		return k.shared[shared].Field(name)
	}
	return nil
}

// complete refuses a plugin that refers to settings that the file does not have.
func (k *kong) complete(p *plugin) error {
	if ref := p.node.Field("_config"); ref != nil && k.shared[scalar(ref)] == nil {
		return p.refusal("its _config is not in the file")
	}
	return nil
}

func (k *kong) addresses(p *plugin, r *restriction) error {
	if err := k.complete(p); err != nil {
		return err
	}
	denied, err := k.texts(p, "deny", "blacklist")
	if err == nil && len(denied) > 0 {
		err = p.refusal("has addresses that are denied, which a key's list cannot say")
	}
	if err != nil {
		return err
	}
	if r.ips, err = k.texts(p, "allow", "whitelist"); err == nil && len(r.ips) == 0 {
		err = p.refusal("has no address that is allowed")
	}
	return err
}

// texts returns the lists under these names, the new one and its older one.
func (k *kong) texts(p *plugin, names ...string) (all []string, err error) {
	for _, name := range names {
		v := k.config(p, name)
		if v != nil && v.Kind != strictyaml.Sequence {
			return nil, p.refusal("its " + name + " is no list")
		}
		for _, item := range v.Items() {
			if scalar(item) == "" {
				return nil, p.refusal("its " + name + " has something else than texts")
			}
			all = append(all, item.Text)
		}
	}
	return all, nil
}

// rates takes over how many requests a consumer has in each window. by is the setting that says
// what is counted.
func (k *kong) rates(p *plugin, r *restriction, by string) error {
	if err := k.complete(p); err != nil {
		return err
	}
	switch counted := scalar(k.config(p, by)); counted {
	case "", "consumer":
		r.together = true
	case "credential":
	default:
		return p.refusal("counts by something else than the key or its consumer")
	}
	numbers, err := k.windows(p)
	if err != nil {
		return err
	}
	if numbers["year"] != nil {
		return p.refusal("limits a year, which no plan does")
	}
	for _, name := range []string{"second", "minute", "hour", "day", "month"} {
		v := numbers[name]
		if v == nil {
			continue
		}
		n, err := strconv.ParseInt(v.Text, 10, 64)
		if v.Kind != strictyaml.Other || err != nil || n < 1 || v.Text[0] == '0' {
			return p.refusal("its limit of a " + name + " is not a whole number from 1")
		}
		r.limits = append(r.limits, keyfile.Limit{Name: name, Requests: n})
	}
	if len(r.limits) == 0 {
		return p.refusal("names no limit")
	}
	return nil
}

// windows returns the limits of a plugin by their units.
func (k *kong) windows(p *plugin) (map[string]*node, error) {
	numbers := map[string]*node{}
	if p.name == "rate-limiting" {
		for _, name := range []string{"second", "minute", "hour", "day", "month", "year"} {
			if v := k.config(p, name); v != nil {
				numbers[name] = v
			}
		}
		return numbers, nil
	}
	limit, size := k.config(p, "limit").Items(), k.config(p, "window_size").Items()
	if len(limit) != len(size) {
		return nil, p.refusal("has not as many limits as windows")
	}
	for i := range limit {
		name := map[string]string{"1": "second", "60": "minute", "3600": "hour", "86400": "day"}[scalar(size[i])]
		if name == "" || numbers[name] != nil {
			return nil, p.refusal("has a window that is no second, minute, hour or day")
		}
		numbers[name] = limit[i]
	}
	return numbers, nil
}

// membership is an ACL group of a consumer.
type membership struct {
	name string
	line int
}

// scopes makes scopes of a consumer's ACL groups, by the map that the user gives.
func (k *kong) scopes(c *consumer, groups []*node, all []*plugin) (scopes []string, err error) {
	if slices.Contains(k.o.Drop, "acl") {
		return nil, nil
	}
	var in []membership
	for _, acl := range c.acls {
		name := scalar(acl.Field("group"))
		if name == "" {
			return nil, fmt.Errorf("acls: line %d names no group", acl.Line)
		}
		in = append(in, membership{name, acl.Line})
	}
	in, denied, err := k.accessLists(in, groups, all)
	if err != nil {
		return nil, err
	}
	for _, m := range in {
		given := list(k.o.Groups[m.name])
		switch {
		case slices.Contains(denied, m.name):
			return nil, fmt.Errorf("acls: the consumer's group on line %d is denied by an acl plugin", m.line)
		case len(given) == 0:
			return nil, fmt.Errorf("acls: group %q on line %d narrows the key: say which scopes it stands for, with --group %s=SCOPE",
				word(m.name), m.line, word(m.name))
		}
		for _, scope := range given {
			if !slices.Contains(scopes, scope) {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes, nil
}

// accessLists looks at the acl plugins: they may let only groups in, deny some, and take consumer
// groups for groups.
func (k *kong) accessLists(in []membership, groups []*node, all []*plugin) (_ []membership, denied []string, err error) {
	var guard *plugin
	for _, p := range all {
		if p.name != "acl" {
			continue
		}
		if err := k.complete(p); err != nil {
			return nil, nil, err
		}
		if scalar(k.config(p, "include_consumer_groups")) == "true" {
			for _, g := range groups {
				in = append(in, membership{scalar(g.Field("name")), g.Line})
			}
		}
		out, err := k.texts(p, "deny", "blacklist")
		if err != nil {
			return nil, nil, err
		}
		denied = append(denied, out...)
		allowed, err := k.texts(p, "allow", "whitelist")
		if err != nil {
			return nil, nil, err
		}
		if len(allowed) > 0 {
			guard = p
		}
	}
	if len(in) == 0 && guard != nil {
		return nil, nil, guard.refusal("lets only groups in, of which the consumer has none")
	}
	return in, denied, nil
}

// word is the name of something, unless it could be a secret.
func word(name string) string {
	if len(name) >= 16 && (len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_-./") != "") {
		return "NAME"
	}
	return name
}

// limitID names the counters that the keys of one consumer share. It is the same at each import.
func (k *kong) limitID(c *consumer) string {
	sum := sha256.New()
	for _, part := range []string{k.o.API, scalar(c.node.Field("id")), scalar(c.node.Field("username")), scalar(c.node.Field("custom_id"))} {
		fmt.Fprintf(sum, "%d:%s", len(part), part)
	}
	return "kong_" + hex.EncodeToString(sum.Sum(nil))[:24]
}
