// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-project/weir/test/servers"
)

const (
	rbac  = "/apis/rbac.authorization.k8s.io/v1"
	robot = "robot" // a service account in namespaces a and b that has a token
	// readers is a group of some users.
	readers = "readers"
)

// people returns all who ask, without those whose tokens have to be asked for.
func people() (out []*user) {
	add := func(name string, groups ...string) {
		i := identity{name: name, groups: append(groups, authenticated)}
		out = append(out, &user{identity: i, uid: "uid-" + name, token: fmt.Sprint("token-", len(out))})
	}
	for i := range 10 {
		if i%3 == 0 {
			add(fmt.Sprint("user-", i), readers)
		} else {
			add(fmt.Sprint("user-", i))
		}
	}
	for _, n := range append(nodes, "n-9") { // the last has neither a Node nor Pods
		add(nodePrefix+n, nodeGroup)
	}
	add(nodePrefix + "n-0") // calls itself a node, and is none
	add("unnamed", nodeGroup)
	add("actor")
	add("nobody")
	return out
}

// tokens is the file that servers know people by.
func tokens(people []*user) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s,admin,admin,\"%s\"\n", servers.Token, masters)
	for _, u := range people {
		fmt.Fprintf(&b, "%s,%s,%s,%q\n", u.token, u.name, u.uid, strings.Join(u.groups[:len(u.groups)-1], ","))
	}
	return b.String()
}

// drawGrants makes the rights that people have by roles.
func drawGrants(r *rand.Rand, people []*user) (out []*grant) {
	add := func(g *grant) {
		g.name, g.bound = fmt.Sprint("g-", len(out)), true
		out = append(out, g)
	}
	for _, u := range people {
		if !strings.HasPrefix(u.name, "user-") {
			continue
		}
		for range 3 + r.IntN(3) {
			add(drawGrant(r, u.name))
		}
	}
	core, read := []string{""}, []string{"get", "list", "watch"}
	add(&grant{namespace: "b", who: readers, isGroup: true, rules: []rule{{verbs: read, groups: core, resources: []string{"configmaps", "pods"}}}})
	add(&grant{namespace: "a", who: everyAccount + ":a", isGroup: true, clusterRole: true, rules: []rule{{verbs: read, groups: []string{"*"}, resources: []string{"*"}}}})
	add(&grant{namespace: "b", who: accountPrefix + "b:" + robot, rules: []rule{{verbs: []string{"list"}, groups: core, resources: []string{"secrets"}}}})
	add(&grant{namespace: "c", who: unauthenticated, isGroup: true, rules: []rule{{verbs: read, groups: core, resources: []string{"services", "configmaps"}}}})
	add(&grant{namespace: "c", who: authenticated, isGroup: true, rules: []rule{{verbs: []string{"get"}, groups: core, resources: []string{"services"}}}})
	// A node that has more than a node by a role.
	add(&grant{namespace: "c", who: nodePrefix + "n-3", rules: []rule{{verbs: read, groups: core, resources: []string{"secrets"}, names: []string{"s-0"}}}})

	act := []string{"impersonate"}
	const authentication = "authentication.k8s.io"
	add(&grant{clusterRole: true, who: "actor", rules: []rule{
		{verbs: act, groups: core, resources: []string{"users"}, names: []string{"user-0", "user-1", "user-2", nodePrefix + "n-1", anonymousName}},
		{verbs: act, groups: core, resources: []string{"groups"}, names: []string{readers, nodeGroup}},
		{verbs: act, groups: []string{authentication}, resources: []string{"uids"}, names: []string{"u"}},
		{verbs: act, groups: []string{authentication}, resources: []string{"userextras/scopes"}, names: []string{"view"}},
	}})
	add(&grant{namespace: "a", who: "actor", rules: []rule{{verbs: act, groups: core, resources: []string{"serviceaccounts"}}}})
	return out
}

func drawGrant(r *rand.Rand, who string) *grant {
	g := &grant{who: who, clusterRole: r.IntN(2) == 0}
	if !g.clusterRole || r.IntN(3) > 0 {
		g.namespace = pick(r, namespaces)
	}
	g.rules = drawRules(r, g.namespace)
	return g
}

// drawRules makes the rules of one role.
func drawRules(r *rand.Rand, namespace string) (out []rule) {
	for range 1 + r.IntN(3) {
		k := pick(r, kinds)
		if namespace != "" && k.namespaces == nil && r.IntN(4) > 0 {
			k = pick(r, kinds)
		}
		rule := rule{groups: []string{k.group}, resources: []string{k.name}}
		rule.verbs = pick(r, [][]string{
			{"get", "list", "watch"}, {"get", "list", "watch"}, {"list", "watch"}, {"list", "watch"}, {"get"}, {"list"}, {"watch"}, {"get", "watch"}, {"*"},
		})
		switch r.IntN(8) {
		case 0: // of one kind, more than the objects
			rule.resources = append(rule.resources, k.name+"/status")
		case 1: // the status alone
			rule.resources = []string{pick(r, []string{k.name + "/status", "*/status"})}
		case 2:
			rule.groups, rule.resources = []string{"*"}, []string{"*"}
			if rule.verbs[0] == "*" { // that would be to impersonate, too
				rule.verbs = []string{"get", "list", "watch"}
			}
		case 3:
			other := pick(r, kinds)
			rule.groups, rule.resources = append(rule.groups, other.group), append(rule.resources, other.name)
		}
		if r.IntN(3) == 0 {
			rule.names = []string{pick(r, k.names)}
			if r.IntN(2) == 0 {
				rule.names = append(rule.names, pick(r, k.names), "nobody")
			}
		}
		out = append(out, rule)
	}
	return out
}

// rolePath is where the role of a grant is, or all of them.
func (g *grant) rolePath() string {
	if g.clusterRole {
		return rbac + "/clusterroles"
	}
	return rbac + "/namespaces/" + g.namespace + "/roles"
}

func (g *grant) bindingPath() string {
	if g.namespace == "" {
		return rbac + "/clusterrolebindings"
	}
	return rbac + "/namespaces/" + g.namespace + "/rolebindings"
}

func (g *grant) role() map[string]any {
	rules := []any{}
	for _, r := range g.rules {
		rules = append(rules, map[string]any{"verbs": r.verbs, "apiGroups": r.groups, "resources": r.resources, "resourceNames": r.names})
	}
	return map[string]any{"metadata": map[string]any{"name": g.name}, "rules": rules}
}

func (g *grant) binding() map[string]any {
	roleKind, subject := "Role", "User"
	if g.clusterRole {
		roleKind = "ClusterRole"
	}
	if g.isGroup {
		subject = "Group"
	}
	return map[string]any{
		"metadata": map[string]any{"name": g.name},
		"roleRef":  map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": roleKind, "name": g.name},
		"subjects": []any{map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": subject, "name": g.who}},
	}
}

// grantAll writes all roles and bindings.
func (w *world) grantAll(t *testing.T, grants []*grant) {
	t.Helper()
	for _, g := range grants {
		w.writer(t).Must(http.MethodPost, g.rolePath(), g.role())
		w.writer(t).Must(http.MethodPost, g.bindingPath(), g.binding())
	}
}

// reform changes n grants: takes rights away, gives them back, or makes others of them. Those to impersonate stay: servers
// remember for a while that somebody may.
func (w *world) reform(t *testing.T, grants []*grant, n int) {
	t.Helper()
	for range n {
		g := pick(w.rand, grants)
		if g.who == "actor" {
			continue
		}
		switch {
		case !g.bound:
			w.writer(t).Must(http.MethodPost, g.bindingPath(), g.binding())
			g.bound = true
		case w.rand.IntN(2) == 0:
			w.writer(t).Must(http.MethodDelete, g.bindingPath()+"/"+g.name, nil)
			g.bound = false
		default:
			g.rules = drawRules(w.rand, g.namespace)
			w.writer(t).Must(http.MethodPatch, g.rolePath()+"/"+g.name, g.role())
		}
	}
}

// probes is the namespace of what tells that the servers' authorizers have seen all that was written before.
const probes = "probes"

// probe is a right that turns from one name to the next.
type probe struct {
	path string
	// of returns the object with which number n is allowed.
	of func(n int) map[string]any
	// asks whether number n is allowed.
	asks func(n int) map[string]any
}

func review(user string, groups []string, namespace, resource, name string) map[string]any {
	return map[string]any{"spec": map[string]any{"user": user, "groups": groups,
		"resourceAttributes": map[string]any{"verb": "get", "namespace": namespace, "resource": resource, "name": name}}}
}

// probed has one for each of the five informers that authorizers follow here: those of roles and bindings, and the Pods'.
func probed() (out []probe) {
	numbered := func(n int) string { return fmt.Sprint("probe-", n) }
	for _, of := range []struct {
		cluster             bool
		namespace, resource string
	}{{false, probes, "configmaps"}, {true, "", "nodes"}} {
		role := func(n int) *grant {
			return &grant{name: "probe", clusterRole: of.cluster, namespace: of.namespace, who: "probe",
				rules: []rule{{verbs: []string{"get"}, groups: []string{""}, resources: []string{of.resource}, names: []string{"fixed", numbered(n)}}}}
		}
		out = append(out, probe{
			path: role(0).rolePath(),
			of:   func(n int) map[string]any { return role(n).role() },
			asks: func(n int) map[string]any { return review("probe", nil, of.namespace, of.resource, numbered(n)) },
		}, probe{
			path: role(0).bindingPath(),
			of: func(n int) map[string]any {
				b := role(0).binding()
				other := map[string]any{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": numbered(n)}
				b["subjects"] = append(b["subjects"].([]any), other)
				return b
			},
			asks: func(n int) map[string]any { return review(numbered(n), nil, of.namespace, of.resource, "fixed") },
		})
	}
	const node = "probe"
	return append(out, probe{
		path: "/api/v1/namespaces/" + probes + "/pods",
		of: func(n int) map[string]any {
			return map[string]any{"metadata": map[string]any{"name": "probe"}, "spec": map[string]any{
				"nodeName": node, "terminationGracePeriodSeconds": 0, "containers": []any{map[string]any{"name": "c", "image": "i"}},
				"volumes": []any{map[string]any{"name": "s", "secret": map[string]any{"secretName": numbered(n)}}},
			}}
		},
		asks: func(n int) map[string]any {
			return review(nodePrefix+node, []string{nodeGroup}, probes, "secrets", numbered(n))
		},
	})
}

// seen waits until the authorizers of both servers have seen all that was written: each informer brings what it is told in
// order.
func (p *pair) seen(t *testing.T) {
	t.Helper()
	p.probe++
	all := probed()
	for _, probe := range all {
		at := probe.path + "/probe"
		method, object := http.MethodPost, probe.of(p.probe)
		if p.probe > 1 {
			method = http.MethodPatch
		}
		if strings.HasSuffix(probe.path, "/pods") && p.probe > 1 { // a Pod's volumes stay
			p.stock.Must(http.MethodDelete, at+"?gracePeriodSeconds=0", nil)
			method = http.MethodPost
		}
		if method == http.MethodPost {
			at = probe.path
		}
		p.stock.Must(method, at, object)
	}
	for _, s := range p.both() {
		for _, probe := range all {
			servers.Eventually(t, s.Name+" to have seen "+probe.path, func() bool {
				answer := s.Must(http.MethodPost, "/apis/authorization.k8s.io/v1/subjectaccessreviews", probe.asks(p.probe))
				status, _ := answer["status"].(map[string]any)
				return status["allowed"] == true
			})
		}
	}
}
