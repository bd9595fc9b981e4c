// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"slices"
	"strings"
)

// identity is who asks, as authorizers see it.
type identity struct {
	name   string
	groups []string
}

// user is somebody who can authenticate.
type user struct {
	identity
	uid string
	// token is none for an anonymous one.
	token string
	// unknown says that the servers do not know the token.
	unknown bool
}

const (
	authenticated   = "system:authenticated"
	unauthenticated = "system:unauthenticated"
	anonymousName   = "system:anonymous"
	masters         = "system:masters"
	nodeGroup       = "system:nodes"
	nodePrefix      = "system:node:"
	accountPrefix   = "system:serviceaccount:"
	everyAccount    = "system:serviceaccounts"
)

// attributes are what a request is judged by.
type attributes struct {
	verb, group, resource, subresource, namespace, name string
	// fields are the terms of the field selector that demand a value.
	fields map[string]string
}

// rule is one of a role's.
type rule struct {
	verbs, groups, resources, names []string
}

func (r rule) allows(a attributes) bool {
	resource := a.resource
	if a.subresource != "" {
		resource += "/" + a.subresource
	}
	return matches(r.verbs, a.verb) && matches(r.groups, a.group) &&
		(matches(r.resources, resource) || a.subresource != "" && slices.Contains(r.resources, "*/"+a.subresource)) &&
		(len(r.names) == 0 || slices.Contains(r.names, a.name))
}

func matches(of []string, s string) bool { return slices.Contains(of, "*") || slices.Contains(of, s) }

// grant is a role and its binding to somebody.
type grant struct {
	// name is that of the role and of the binding.
	name string
	// clusterRole says that the role has no namespace, which the binding may have.
	clusterRole bool
	// namespace is the binding's; everywhere if that is "".
	namespace string
	// who is a user's name or, with isGroup, that of a group.
	who     string
	isGroup bool
	rules   []rule
	bound   bool
}

func (g *grant) concerns(i identity) bool {
	if g.isGroup {
		return slices.Contains(i.groups, g.who)
	}
	return i.name == g.who
}

// rights are what is allowed to whom: a second opinion, made from what the test has written.
type rights struct {
	grants []*grant
	world  *world
}

// allowed says whether somebody may do something.
func (r *rights) allowed(i identity, a attributes) bool {
	if slices.Contains(i.groups, masters) || r.toNode(i, a) {
		return true
	}
	for _, g := range r.grants {
		if !g.bound || !g.concerns(i) || g.namespace != "" && g.namespace != a.namespace {
			continue
		}
		if slices.ContainsFunc(g.rules, func(r rule) bool { return r.allows(a) }) {
			return true
		}
	}
	return false
}

// toNode says what a node may: see its own Node and Lease, its Pods, and what those refer to, and all Services.
func (r *rights) toNode(i identity, a attributes) bool {
	node, ok := strings.CutPrefix(i.name, nodePrefix)
	if !ok || !slices.Contains(i.groups, nodeGroup) || a.subresource != "" {
		return false
	}
	if a.verb != "get" && a.verb != "list" && a.verb != "watch" {
		return false
	}
	switch a.resource {
	case "nodes":
		return a.name == node
	case "leases":
		return a.verb == "get" && a.namespace == nodeLeases && a.name == node
	case "services":
		return true
	case "pods":
		if a.verb != "get" && a.fields[nodeName] == node {
			return true
		}
		pod := r.world.live[object{pods, a.namespace, a.name}]
		return pod != nil && pod.fields[nodeName] == node
	case "serviceaccounts":
		return a.verb == "get" && r.refers(node, a)
	case "secrets", "configmaps":
		return r.refers(node, a)
	default:
		return false
	}
}

// refers says whether a Pod of a node refers to an object.
func (r *rights) refers(node string, a attributes) bool {
	for o, s := range r.world.live {
		if o.kind == pods && o.namespace == a.namespace && s.fields[nodeName] == node && s.refers[a.resource] == a.name {
			return true
		}
	}
	return false
}

// impersonation is whom a user says to be.
type impersonation struct {
	name   string
	groups []string
	uid    string
	scopes []string
}

// impersonated returns who somebody then is, and whether it is allowed.
func (r *rights) impersonated(by identity, as *impersonation) (identity, bool) {
	then := identity{name: as.name, groups: slices.Clone(as.groups)}
	ask := func(group, resource, subresource, namespace, name string) bool {
		return r.allowed(by, attributes{verb: "impersonate", group: group, resource: resource, subresource: subresource, namespace: namespace, name: name})
	}
	const authentication = "authentication.k8s.io"
	allowed := true
	if account, ok := strings.CutPrefix(as.name, accountPrefix); ok {
		namespace, name, _ := strings.Cut(account, ":")
		allowed = ask("", "serviceaccounts", "", namespace, name)
		if len(as.groups) == 0 {
			then.groups = []string{everyAccount, everyAccount + ":" + namespace}
		}
	} else {
		allowed = ask("", "users", "", "", as.name)
	}
	for _, g := range as.groups {
		allowed = allowed && ask("", "groups", "", "", g)
	}
	if as.uid != "" {
		allowed = allowed && ask(authentication, "uids", "", "", as.uid)
	}
	for _, s := range as.scopes {
		allowed = allowed && ask(authentication, "userextras", "scopes", "", s)
	}
	switch {
	case as.name == anonymousName:
		then.groups = append(then.groups, unauthenticated)
	case !slices.Contains(then.groups, unauthenticated):
		then.groups = append(then.groups, authenticated)
	}
	return then, allowed
}
