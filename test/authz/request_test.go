// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weir-project/weir/test/servers"
)

// form is a way to ask for objects.
type form struct {
	name, accept, query string
	gzip                bool
	agent               string
	// metadata says that nothing but metadata may come, and what a Table has in its cells.
	metadata, table bool
	// hidden says that a Table does not have the metadata either.
	hidden bool
}

const (
	inJSON     = "application/json"
	inProtobuf = "application/vnd.kubernetes.protobuf"
	ofMeta     = ";v=v1;g=meta.k8s.io"
)

// forms are in the shares in which they are drawn.
var forms = []form{
	{name: "JSON", accept: inJSON},
	{name: "JSON", accept: inJSON},
	{name: "JSON", accept: inJSON},
	{name: "JSON gzip", accept: inJSON, gzip: true},
	{name: "JSON pretty", accept: inJSON, query: "pretty=true"},
	{name: "JSON curl", accept: "*/*", agent: "curl/8.5.0"},
	{name: "protobuf", accept: inProtobuf},
	{name: "protobuf", accept: inProtobuf},
	{name: "protobuf gzip", accept: inProtobuf + "," + inJSON, gzip: true},
	{name: "Table", accept: inJSON + ";as=Table" + ofMeta, table: true, metadata: true},
	{name: "Table", accept: inJSON + ";as=Table" + ofMeta + "," + inJSON, table: true, metadata: true},
	{name: "Table of nothing", accept: inJSON + ";as=Table" + ofMeta, query: "includeObject=None", table: true, metadata: true, hidden: true},
	{name: "Table of objects", accept: inJSON + ";as=Table" + ofMeta, query: "includeObject=Object", table: true},
	{name: "metadata", accept: inJSON + ";as=PartialObjectMetadata" + ofMeta, metadata: true},
	{name: "metadata protobuf", accept: inProtobuf + ";as=PartialObjectMetadata" + ofMeta, metadata: true},
	{name: "YAML", accept: "application/yaml"},
	{name: "CBOR", accept: "application/cbor"},
}

// request is one that a user makes.
type request struct {
	by *user
	as *impersonation
	// who asks in the end, and whether it may.
	who     identity
	allowed bool

	object
	version, subresource string
	verb                 string
	labels               string
	field                fieldSelector
	// old says that a watch is asked for by the path alone, /watch/, as in old releases.
	old bool
	// query has what else is asked for.
	query []string
	form  form
	// odd, if there is any, makes of the path one that no client means: the servers have to understand the same, or to refuse
	// it alike.
	odd func(path string) string
	// method is GET if it is empty.
	method string
	http1  bool
}

// oddities are parameters that change what is asked for, or who may, or contradict others.
var oddities = []string{
	"watch=&timeoutSeconds=2", "watch=false&watch=true&timeoutSeconds=2", "watch=true&watch=false&timeoutSeconds=2", "watch=maybe&timeoutSeconds=2",
	"watch=1&timeoutSeconds=2", "watch=1&timeoutSeconds=2&resourceVersion=0", "timeoutSeconds=bad", "limit=1&limit=2", "unknown=1",
	"labelSelector=app%3Dweb", "labelSelector=", "labelSelector=app%3D%3D%3D", "resourceVersion=0", "continue=",
	"fieldSelector=metadata.name%3Ds-0&fieldSelector=metadata.name%3Ds-1", "fieldSelector=metadata.name%3Dcm-0&fieldSelector=",
	"fieldSelector=metadata.name%3D..", "fieldSelector=metadata.name%3D%2A", "fieldSelector=metadata.name%3Da%2Fb", "fieldSelector=metadata.name%3D",
	"fieldSelector=metadata.name%3Ds-0,metadata.name%3Ds-1", "fieldSelector=metadata.name%3D%3Ds-0", "fieldSelector=metadata.name!%3Ds-0,metadata.name%3Ds-0",
	"fieldSelector=metadata.namespace%3Da,metadata.namespace%3Db", "fieldSelector=spec.nodeName%3Dn-0,spec.nodeName%3Dn-1", "fieldSelector=spec.nodeName%3D%3Dn-1",
}

// oddly draws what makes a request odd.
func oddly(x *rand.Rand) func(string) string {
	if x.IntN(3) > 0 {
		add, before := pick(x, oddities), x.IntN(2) == 0
		return func(path string) string {
			path, query, _ := strings.Cut(path, "?")
			if before {
				return path + "?" + strings.Trim(add+"&"+query, "&")
			}
			return path + "?" + strings.Trim(query+"&"+add, "&")
		}
	}
	change := pick(x, []func(string) string{
		func(p string) string { return p + "/" },
		func(p string) string { return p + "//" },
		func(p string) string { return "/" + p },
		func(p string) string { return strings.Replace(p, "/namespaces/a/", "/namespaces/b/../a/", 1) },
		func(p string) string { return strings.Replace(p, "/namespaces/", "/namespaces//", 1) },
		func(p string) string { return strings.Replace(p, "/namespaces/", "/namespaces/%2e/", 1) },
		func(p string) string { return strings.Replace(p, "-", "%2D", 1) },
		func(p string) string { return p + "%2Fstatus" },
		strings.ToUpper,
	})
	return func(path string) string {
		path, query, found := strings.Cut(path, "?")
		if path = change(path); found {
			path += "?" + query
		}
		return path
	}
}

// labelSelectors are by what they say, with labels that they select.
var labelSelectors = []struct {
	text    string
	witness map[string]string
}{
	{"app=web", map[string]string{"app": "web"}},
	{"app=web", map[string]string{"app": "web"}},
	{"app=db,tier", map[string]string{"app": "db", "tier": "1"}},
	{"app!=web", map[string]string{"app": "db"}},
	{"app in (web,db)", map[string]string{"app": "db"}},
	{"app notin (web),tier=1", map[string]string{"tier": "1"}},
	{"!app", nil},
	{"tier>0", map[string]string{"tier": "2"}},
	{"app=nobody", map[string]string{"app": "nobody"}},
}

// attributes are what it is judged by.
func (r *request) attributes() attributes {
	a := attributes{verb: r.verb, group: r.kind.group, resource: r.kind.name, subresource: r.subresource, namespace: r.namespace, name: r.name}
	if r.kind.name == "namespaces" {
		a.namespace = r.name
	}
	if r.verb == "get" || r.old {
		return a
	}
	a.fields = map[string]string{}
	selector, err := fields.ParseSelector(r.field.text)
	if err != nil {
		return a
	}
	for _, term := range selector.Requirements() {
		if term.Operator == "=" {
			a.fields[term.Field] = term.Value
		}
	}
	a.name = a.fields["metadata.name"]
	return a
}

// path is its path and query.
func (r *request) path() string {
	path := r.kind.root(r.version)
	if r.old {
		path += "/watch"
	}
	if r.namespace != "" {
		path += "/namespaces/" + r.namespace
	}
	path += "/" + r.kind.name
	if r.name != "" {
		path += "/" + r.name
	}
	if r.subresource != "" {
		path += "/" + r.subresource
	}
	query := slices.Clone(r.query)
	if r.verb == "watch" && !r.old {
		query = append(query, "watch=true")
	}
	if r.labels != "" {
		query = append(query, "labelSelector="+url.QueryEscape(r.labels))
	}
	if r.field.text != "" {
		query = append(query, "fieldSelector="+url.QueryEscape(r.field.text))
	}
	if r.form.query != "" {
		query = append(query, r.form.query)
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	if r.odd != nil {
		path = r.odd(path)
	}
	return path
}

// http is the request as it goes out.
func (r *request) http() servers.Request {
	h := http.Header{"Accept": {r.form.accept}, "Authorization": nil}
	if r.by.token != "" {
		h.Set("Authorization", "Bearer "+r.by.token)
	}
	if r.verb != "get" {
		h.Set("Accept", strings.ReplaceAll(r.form.accept, "as=PartialObjectMetadata;", map[string]string{
			"list": "as=PartialObjectMetadataList;", "watch": "as=PartialObjectMetadata;"}[r.verb]))
	}
	if r.form.gzip {
		h.Set("Accept-Encoding", "gzip")
	}
	if r.form.agent != "" {
		h.Set("User-Agent", r.form.agent)
	}
	if as := r.as; as != nil {
		h.Set("Impersonate-User", as.name)
		if as.groups != nil {
			h["Impersonate-Group"] = as.groups
		}
		if as.uid != "" {
			h.Set("Impersonate-Uid", as.uid)
		}
		if as.scopes != nil {
			h["Impersonate-Extra-Scopes"] = as.scopes
		}
	}
	return servers.Request{Method: r.method, Path: r.path(), Header: h, HTTP1: r.http1}
}

func (r *request) String() string {
	by := r.by.name
	if r.as != nil {
		by = fmt.Sprintf("%s as %+v", by, *r.as)
	}
	return strings.TrimSpace(fmt.Sprintf("%s: %s %s, %s (%s)", by, r.method, r.path(), r.form.name, r.verb))
}

// selects says whether a state is one that the request asks for.
func (r *request) selects(s *state) bool {
	if s.kind != r.kind || r.namespace != "" && s.namespace != r.namespace || r.name != "" && s.name != r.name {
		return false
	}
	if r.verb == "get" {
		return true
	}
	byLabel, err := labels.Parse(r.labels)
	if err != nil {
		return false
	}
	byField, err := fields.ParseSelector(r.field.text)
	if err != nil {
		return false
	}
	set := fields.Set{"metadata.name": s.name, "metadata.namespace": s.namespace, "status.phase": "Active"}
	for k, v := range s.fields {
		set[k] = v
	}
	if s.kind.name == "secrets" {
		set["type"] = "Opaque"
	}
	return byLabel.Matches(labels.Set(s.labels)) && byField.Matches(set)
}

// drawer draws requests.
type drawer struct {
	rand  *rand.Rand
	users []*user
	admin *user
	// anonymous, unknown and accounts are users too, but apart from those of the token file.
	anonymous, unknown *user
	accounts           []*user
	rights             *rights
	world              *world
	// tokens are continue tokens that somebody was given.
	tokens []string
	// focus is what half of the requests of a round are for, so that what is made for one is there for others to be given.
	focus []object
}

// look draws a new focus.
func (d *drawer) look() {
	d.focus = nil
	for range 3 {
		d.focus = append(d.focus, pick(d.rand, pick(d.rand, kinds).objects()))
	}
}

// draw makes a request; more often than not one that is allowed.
func (d *drawer) draw(watch bool) *request {
	var r *request
	wanted := d.rand.IntN(10) < 7
	for range 12 {
		r = d.one(watch)
		if r.allowed || !wanted {
			break
		}
	}
	return r
}

func (d *drawer) one(watch bool) *request {
	x := d.rand
	r := &request{form: pick(x, forms), http1: x.IntN(10) == 0}
	d.drawUser(r)
	k := pick(x, kinds)
	if strings.HasPrefix(r.who.name, nodePrefix) && x.IntN(4) > 0 {
		k = kindOf(pick(x, []string{"pods", "pods", "secrets", "configmaps", "nodes", "leases", "services", "serviceaccounts"}))
	}
	o := pick(x, k.objects())
	if x.IntN(2) == 0 {
		o = pick(x, d.focus)
		k = o.kind
	}
	r.kind, r.namespace = k, o.namespace
	r.version = pick(x, k.versions)
	if watch {
		r.verb = "watch"
		r.old = x.IntN(12) == 0
	} else if r.verb = "list"; x.IntN(3) == 0 {
		r.verb = "get"
	}
	if k.namespaces != nil && r.verb != "get" && x.IntN(4) == 0 {
		r.namespace = ""
	}
	if r.verb == "get" {
		r.name = o.name
		if x.IntN(10) == 0 {
			r.name = "nobody"
		}
		if k.subresources != nil && x.IntN(4) == 0 {
			r.subresource = pick(x, k.subresources)
		}
		r.query = d.ofGet()
	} else {
		d.drawSelectors(r, o)
		if watch {
			r.query = d.ofWatch()
			if begin := strings.Join(r.query, ""); k.uncached && (begin == "" || begin == "resourceVersion=0") {
				r.query = []string{"resourceVersion=" + d.current()} // see follow
			}
			for r.form.hidden && (r.field.name != "" || k.name == "namespaces") { // its marker would not be seen
				r.form = pick(x, forms)
			}
		} else {
			r.query = d.ofList(r)
		}
	}
	if r.old && r.namespace+k.group != "" && x.IntN(2) == 0 {
		if r.form.hidden {
			r.form = forms[0]
		}
		r.name, r.field, r.labels = o.name, fieldSelector{}, ""
		if k.namespaces != nil {
			r.namespace = o.namespace
		}
	}
	if !watch && x.IntN(30) == 0 {
		r.odd = oddly(x)
		r.method = pick(x, []string{http.MethodGet, http.MethodGet, http.MethodGet, http.MethodHead})
	}
	permitted := true
	if r.as != nil {
		_, permitted = d.rights.impersonated(r.by.identity, r.as)
	}
	r.allowed = permitted && !r.by.unknown && d.rights.allowed(r.who, r.attributes())
	return r
}

func (d *drawer) drawUser(r *request) {
	x := d.rand
	r.by = pick(x, d.users)
	switch n := x.IntN(100); {
	case n < 5:
		r.by = d.admin
	case n < 8:
		r.by = d.anonymous
	case n < 9:
		r.by = d.unknown
	case n < 16:
		r.by = pick(x, d.accounts)
	case n < 26: // nodes, more often than others
		for !strings.HasPrefix(r.by.name, nodePrefix) {
			r.by = pick(x, d.users)
		}
	case n < 40:
		for r.by.name != "actor" {
			r.by = pick(x, d.users)
		}
		if x.IntN(4) == 0 {
			r.by = d.admin
		}
	}
	if r.by.name == "actor" || r.by == d.admin && x.IntN(2) == 0 || x.IntN(60) == 0 {
		r.as = &impersonation{name: pick(x, []string{"user-0", "user-1", "user-2", "user-3", nodePrefix + "n-1", nodePrefix + "n-2", anonymousName,
			accountPrefix + "a:" + robot, accountPrefix + "b:" + robot})}
		if x.IntN(2) == 0 {
			r.as.groups = [][]string{{readers}, {nodeGroup}, {nodeGroup}, {readers, nodeGroup}, {masters}, {unauthenticated}}[x.IntN(6)]
		}
		// An administrator may impersonate nodes as such too, who are then of their group. Whether that is tried first depends on
		// what the server has allowed last.
		if r.as.groups == nil && r.by == d.admin && strings.HasPrefix(r.as.name, nodePrefix) {
			r.as.groups = []string{nodeGroup}
		}
		if x.IntN(6) == 0 {
			r.as.uid = pick(x, []string{"u", "u", "v"})
		}
		if x.IntN(6) == 0 {
			r.as.scopes = [][]string{{"view"}, {"view"}, {"view", "edit"}}[x.IntN(3)]
		}
	}
	r.who = r.by.identity
	if r.as != nil {
		r.who, _ = d.rights.impersonated(r.by.identity, r.as)
	}
}

// drawSelectors gives a list or watch its selectors. Nodes mostly ask for what is theirs.
func (d *drawer) drawSelectors(r *request, o object) {
	x, k := d.rand, r.kind
	if x.IntN(3) == 0 {
		r.labels = pick(x, labelSelectors).text
	}
	byName := fieldSelector{text: "metadata.name=" + o.name, name: o.name}
	switch n := x.IntN(10); {
	case n < 3:
		r.field = byName
	case n < 6 && k.fields != nil:
		r.field = pick(x, k.fields)
	case n == 6 && k.name != "namespaces": // of which none can be made for a moment
		r.field = pick(x, []fieldSelector{{text: "metadata.name!=" + o.name}, {text: "metadata.name=nobody", name: "nobody"}, {text: "metadata.name=" + o.name + ",metadata.name=" + o.name, name: o.name}})
	case n == 7 && k.namespaces != nil && o.namespace != "":
		r.field = fieldSelector{text: "metadata.namespace=" + o.namespace}
		if x.IntN(2) == 0 {
			r.field = fieldSelector{text: "metadata.namespace=" + o.namespace + "," + byName.text, name: o.name}
		}
	}
	node, ok := strings.CutPrefix(r.who.name, nodePrefix)
	if !ok || x.IntN(4) == 0 {
		return
	}
	switch k.name {
	case "pods":
		r.field = fieldSelector{text: nodeName + "=" + node, fields: map[string]string{nodeName: node}}
	case "nodes":
		r.field = fieldSelector{text: "metadata.name=" + node, name: node}
	case "leases":
		r.field = byName
	case "secrets", "configmaps", "serviceaccounts":
		r.field = byName
	}
}

// revision is a recent one, of which there are at least two.
func (d *drawer) revision() string {
	all := d.world.revisions
	return all[max(0, len(all)-1-d.rand.IntN(min(len(all), 60)))]
}

func (d *drawer) current() string { return d.world.revisions[len(d.world.revisions)-1] }

func (d *drawer) ofGet() []string {
	switch d.rand.IntN(6) {
	case 0:
		return []string{"resourceVersion=0"}
	case 1:
		return []string{"resourceVersion=" + d.revision()}
	case 2:
		if d.rand.IntN(5) == 0 {
			return []string{"resourceVersion=bad"}
		}
	}
	return nil
}

func (d *drawer) ofList(r *request) (out []string) {
	x := d.rand
	if x.IntN(3) == 0 {
		out = append(out, fmt.Sprint("limit=", pick(x, []int{1, 1, 2, 3, 500})))
	}
	// Where the selector names a namespace, stock's later pages repeat or lack objects; weir's do not: TestPagesOfSelectedNamespace
	// in watchcache.
	if len(d.tokens) > 0 && x.IntN(5) == 0 && !strings.Contains(r.field.text, "metadata.namespace=") {
		return append(out, "continue="+pick(x, d.tokens[max(0, len(d.tokens)-40):]))
	}
	match := func(of string) { out = append(out, "resourceVersionMatch="+of) }
	switch n := x.IntN(20); {
	case n < 4:
		out = append(out, "resourceVersion=0")
		if n == 0 {
			match("NotOlderThan")
		}
	case n < 7:
		out = append(out, "resourceVersion="+d.revision())
		match("Exact")
	case n == 7:
		out = append(out, "resourceVersion="+d.revision())
		match("NotOlderThan")
	case n == 8:
		out = append(out, "resourceVersion="+d.revision())
	case n == 9:
		out = append(out, "resourceVersion="+d.current())
		match("Exact")
	case n == 10:
		out = append(out, pick(x, []string{"resourceVersion=bad", "resourceVersion=-1", "resourceVersionMatch=Exact", "resourceVersion=0&resourceVersionMatch=Exact",
			"continue=bad", "limit=-1", "resourceVersion=1&resourceVersionMatch=Other"}))
	case n == 11 && x.IntN(30) == 0: // takes 3 seconds
		out = append(out, "resourceVersion=999999999")
	}
	return out
}

func (d *drawer) ofWatch() []string {
	switch n := d.rand.IntN(20); {
	case n < 6:
		return []string{"resourceVersion=" + d.current()}
	case n < 10:
		return []string{"resourceVersion=" + d.revision()}
	case n < 13:
		return []string{"resourceVersion=0"}
	case n < 14:
		return nil
	case n < 18:
		return []string{"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"}
	case n < 19:
		return []string{"sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=" + d.revision()}
	default:
		return []string{pick(d.rand, []string{"resourceVersion=bad", "sendInitialEvents=true", "resourceVersionMatch=NotOlderThan", "resourceVersion=-1"})}
	}
}
