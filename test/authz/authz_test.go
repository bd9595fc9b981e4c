// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package authz has users of all kinds of rights ask upstream's server and weir's, both over one etcd, and holds the answers
// against each other and against an opinion of its own of who may see what:
//
//	people, their tokens, roles (rights_test.go, grants_test.go)      what is allowed: RBAC, nodes, impersonation
//	objects, each write of which has a number (world_test.go)         what an answer is made of
//	requests drawn from a seed (request_test.go)
//
// Some requests are odd: parameters twice, paths that no client writes. Of those the answers are compared alone.
//
// A round writes, lets both servers' caches and authorizers catch up, has requests answered while nothing is written
// (compare_test.go), and then opens watches, takes rights away, writes what moves objects in and out of what the watches
// select, and compares the streams up to a marker that each selects (watch_test.go).
//
// Whatever stock says: an answer shows nothing of an object that its user may not see, nor of a state of it that the
// request does not select.
package authz

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"

	"github.com/weir-project/weir/test/etcd"
	"github.com/weir-project/weir/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

const (
	seedEnv     = "WEIR_SEED"     // a number
	requestsEnv = "WEIR_REQUESTS" // how many
)

// pair is upstream's server and weir's over one etcd.
type pair struct {
	etcd        *kubernetes.Client
	stock, weir *servers.Server
	world       *world
	// probe is the number of the latest probes.
	probe int
}

func (p *pair) both() []*servers.Server { return []*servers.Server{p.stock, p.weir} }

// start starts a pair that knows people.
func start(t *testing.T, people []*user, r *rand.Rand) *pair {
	t.Helper()
	p := &pair{etcd: etcd.Run(t)}
	room := servers.Room(t)
	file := filepath.Join(room.Dir(), "people.csv")
	if err := os.WriteFile(file, []byte(tokens(people)), 0o600); err != nil {
		t.Fatal(err)
	}
	// Leases of the servers' identities would be renewed, and history be forgotten, while answers are compared.
	flags := []string{"--token-auth-file=" + file, "--etcd-compaction-interval=0",
		"--feature-gates=APIServerIdentity=false,UnknownVersionInteroperabilityProxy=false"}
	for name, into := range map[string]**servers.Server{servers.Stock: &p.stock, servers.Weir: &p.weir} {
		program := servers.Program(name, flags...)
		program.Etcd = p.etcd.Endpoints()
		*into = servers.StartIn(t, room, program)
	}
	p.stock.Wait()
	p.weir.Wait()
	p.world = &world{rand: r, servers: p.both(), states: []*state{nil}, live: map[object]*state{}}
	p.stock.Must(http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition())
	for _, s := range p.both() {
		for _, path := range []string{"/apis/" + group + "/v1/passes", "/apis/" + group + "/v2/passes", "/api/v1/namespaces/" + nodeLeases} {
			servers.Eventually(t, s.Name+" to serve "+path, func() bool {
				status, _ := s.Do(http.MethodGet, path, nil)
				return status == http.StatusOK
			})
		}
	}
	p.stock.Must(http.MethodPost, "/api/v1/namespaces", map[string]any{"metadata": map[string]any{"name": probes}})
	return p
}

// revision returns the revision that etcd is at.
func (p *pair) revision(t *testing.T) int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), servers.Patience)
	defer cancel()
	resp, err := p.etcd.KV.Get(ctx, "nothing")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.Revision
}

// settle lists everything at both servers until nothing has been written meanwhile: their caches have then seen the last
// revision, which it returns, so that lists of any state are lists of the same.
func (p *pair) settle(t *testing.T) int64 {
	t.Helper()
	before := p.revision(t)
	servers.Eventually(t, "servers to stop writing", func() bool {
		done := make(chan error)
		asked := 0
		for _, k := range kinds {
			for _, version := range k.versions {
				for _, s := range p.both() {
					asked++
					go func() {
						path := k.root(version) + "/" + k.name + "?limit=1"
						resp, err := s.Answer(t.Context(), servers.Request{Path: path})
						if err == nil && resp.Status != http.StatusOK {
							err = fmt.Errorf("%s: %s: %d %.300s", s.Name, path, resp.Status, resp.Body)
						}
						done <- err
					}()
				}
			}
		}
		for range asked {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		was := before
		before = p.revision(t)
		return before == was
	})
	return before
}

// account makes a service account and returns it as a user.
func (p *pair) account(t *testing.T, namespace string) *user {
	t.Helper()
	path := "/api/v1/namespaces/" + namespace + "/serviceaccounts"
	p.stock.Must(http.MethodPost, path, map[string]any{"metadata": map[string]any{"name": robot}})
	answer := p.stock.Must(http.MethodPost, path+"/"+robot+"/token", map[string]any{"spec": map[string]any{"expirationSeconds": 24 * 3600}})
	status, _ := answer["status"].(map[string]any)
	token, _ := status["token"].(string)
	return &user{token: token, identity: identity{
		name: accountPrefix + namespace + ":" + robot, groups: []string{everyAccount, everyAccount + ":" + namespace, authenticated},
	}}
}

// prime has each server allow somebody to impersonate, as it then remembers: what it says later, when it refuses, begins with
// that kind of impersonation.
func (p *pair) prime(t *testing.T, users []*user) {
	t.Helper()
	p.seen(t)
	actor := users[slices.IndexFunc(users, func(u *user) bool { return u.name == "actor" })]
	r := &request{by: actor, as: &impersonation{name: "user-0", uid: "u"}, object: object{kindOf("nodes"), "", "n-0"}, version: "v1", verb: "get"}
	for _, s := range p.both() {
		resp, err := s.Answer(t.Context(), r.http())
		if err != nil || !strings.Contains(string(resp.Body), "user-0") && resp.Status != http.StatusOK {
			t.Fatalf("%s: %s may not act for user-0: %d %.300s, %v", s.Name, actor.name, resp.Status, resp.Body, err)
		}
	}
}

// round is how many requests are made of each kind in between of writes.
const (
	asksInRound    = 90
	watchesInRound = 30
	writesInRound  = 25
	// writesToWatches are made while watches run.
	writesToWatches = 60
)

// TestWhoMaySeeWhat makes 1,500 requests, or as many as are asked for.
func TestWhoMaySeeWhat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes most of a minute")
	}
	seed, requests := rand.Uint64(), 1500
	if given := os.Getenv(seedEnv); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	if given := os.Getenv(requestsEnv); given != "" {
		var err error
		if requests, err = strconv.Atoi(given); err != nil {
			t.Fatalf("%s: %v", requestsEnv, err)
		}
	}
	t.Logf("%s=%d", seedEnv, seed)
	began := time.Now()
	r := rand.New(rand.NewPCG(seed, 0))
	users := people()
	p := start(t, users, r)
	w := p.world
	w.fill(t)
	grants := drawGrants(r, users)
	w.grantAll(t, grants)
	d := &drawer{
		rand: r, users: users, world: w, rights: &rights{grants: grants, world: w},
		admin:     &user{identity: identity{name: "admin", groups: []string{masters, authenticated}}, token: servers.Token},
		anonymous: &user{identity: identity{name: anonymousName, groups: []string{unauthenticated}}},
		unknown:   &user{identity: identity{name: "unknown"}, token: "unknown", unknown: true},
		accounts:  []*user{p.account(t, "a"), p.account(t, "b")},
	}
	p.prime(t, users)
	told := &tally{}
	for told.requests < requests && !t.Failed() {
		w.churn(t, writesInRound, nil)
		w.reform(t, grants, 3)
		p.seen(t)
		p.settle(t)
		d.look()
		var asks, watches []*request
		for range asksInRound {
			asks = append(asks, d.draw(false))
		}
		told.add(t, p.askAll(t, asks))
		for _, o := range told.latest {
			if found := token.Find(o.body); found != nil {
				d.tokens = append(d.tokens, string(found))
			}
		}
		for range watchesInRound {
			watches = append(watches, d.draw(true))
		}
		told.add(t, p.watchAll(t, watches, func() {
			w.reform(t, grants, 3)
			p.seen(t)
			w.churn(t, writesToWatches, slices.DeleteFunc(slices.Clone(watches), func(r *request) bool { return !r.allowed }))
		}))
	}
	t.Logf("%v in %v", told, time.Since(began).Round(time.Second))
	if !t.Failed() && told.items*3 < told.requests {
		t.Errorf("only %d of %d answers had something in them", told.items, told.requests)
	}
}

// tally counts what was compared.
type tally struct {
	latest                                                 []*outcome
	requests, allowed, refused, items, bytes, events       int
	gets, lists, watches, moved, impersonated, byNode, odd int
	statuses                                               map[int]int
	wrong                                                  int
}

// add counts outcomes, and says what is wrong with them.
func (n *tally) add(t *testing.T, all []*outcome) {
	t.Helper()
	n.latest = all
	for _, o := range all {
		n.requests++
		n.bytes += len(o.body)
		if n.statuses == nil {
			n.statuses = map[int]int{}
		}
		n.statuses[o.status]++
		for counter, yes := range map[*int]bool{
			&n.allowed: o.allowed, &n.refused: !o.allowed, &n.items: o.items, &n.gets: o.verb == "get", &n.lists: o.verb == "list",
			&n.watches: o.verb == "watch", &n.impersonated: o.as != nil, &n.odd: o.odd != nil, &n.byNode: strings.HasPrefix(o.who.name, nodePrefix),
		} {
			if yes {
				*counter++
			}
		}
		if o.verb == "watch" && o.status == http.StatusOK {
			n.events += o.events
			if strings.Contains(string(o.body), "DELETED") {
				n.moved++
			}
		}
		if o.wrong == "" {
			continue
		}
		if n.wrong++; n.wrong <= 10 {
			t.Errorf("%s\n%s", o.request, o.wrong)
		} else {
			t.Errorf("and: %s", o.request)
		}
	}
}

func (n *tally) String() string {
	var statuses []string
	for _, s := range slices.Sorted(maps.Keys(n.statuses)) {
		statuses = append(statuses, fmt.Sprintf("%d: %d", s, n.statuses[s]))
	}
	return fmt.Sprintf("%d requests (%d gets, %d lists, %d watches; %d of nodes, %d impersonated, %d odd): %d allowed, %d refused, %d answers with something in them; "+
		"statuses %s; %d bytes, %d watch events, %d watches that something left",
		n.requests, n.gets, n.lists, n.watches, n.byNode, n.impersonated, n.odd, n.allowed, n.refused, n.items, strings.Join(statuses, ", "), n.bytes, n.events, n.moved)
}
