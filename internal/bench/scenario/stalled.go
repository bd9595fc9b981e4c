// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/weir-project/weir/internal/bench/client"
	"github.com/weir-project/weir/internal/bench/dataset"
	"github.com/weir-project/weir/internal/bench/report"
)

// Stalled measures what a server holds for watches whose clients have stopped reading, while
// others write to the same resource.
type Stalled struct {
	Watches    int           `json:"watches"`    // of each of the kinds below
	Objects    int           `json:"objects"`    // that the watches are of, and as many that are written to
	ObjectSize int           `json:"objectSize"` // bytes
	Rate       float64       `json:"rate"`       // writes per second
	Lasts      time.Duration `json:"lasts"`
	Gzip       bool          `json:"gzip,omitempty"` // asks for compressed watches; upstream's server compresses those with initial events
	Data       []string      `json:"data"`
}

// About implements Scenario.
func (sc *Stalled) About() About {
	return About{
		Name: "stalled", Label: labelled("stalled", sc.Gzip), Datasets: sc.Data, Rounds: 1, Writes: []string{"configmaps"},
		Asks: asks("clients that do not read", "watches", client.FormatJSON, sc.Gzip),
	}
}

func (sc *Stalled) run(ctx context.Context, s *session) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	quiet, remove, err := s.prepareExtras(ctx, sc)
	if err != nil {
		return err
	}
	defer remove()
	busy := s.Place.Namespace(sc.About().Name + "-busy")
	if _, err := s.Place.Prepare(ctx, s.server.Client, busy); err != nil {
		return err
	}
	write := func(namespace string, i, version int) (string, error) {
		object := dataset.NewConfigMap("stalled", i, version, sc.ObjectSize)
		object.Labels[dataset.ScenarioLabel] = sc.About().Name
		configMaps := s.server.Client.CoreV1().ConfigMaps(namespace)
		if version == 0 {
			made, err := configMaps.Create(ctx, object, metav1.CreateOptions{})
			if err != nil {
				return "", fmt.Errorf("prepare an object to watch: %w", err)
			}
			return made.ResourceVersion, nil
		}
		_, err := configMaps.Update(ctx, object, metav1.UpdateOptions{})
		return "", err
	}
	var version string
	for _, namespace := range []string{quiet, busy} {
		for i := range sc.Objects {
			if version, err = write(namespace, i, 0); err != nil {
				return err
			}
		}
	}
	namespaced := "/api/v1/namespaces/" + quiet + "/configmaps"
	var stalled []*http.Response
	defer func() {
		for _, r := range stalled {
			_ = r.Body.Close()
		}
	}()
	for _, path := range []string{
		namespaced + "?resourceVersion=0",                                  // stalls in its initial events
		s.Place.Collection("/api/v1", "configmaps") + "?resourceVersion=0", // so does this one, of everything
		namespaced + "?resourceVersion=" + version,                         // stalls when its objects change
	} {
		opened, err := sc.open(ctx, s, path+"&watch=1&allowWatchBookmarks=true&timeoutSeconds=3600")
		stalled = append(stalled, opened...)
		if err != nil {
			return err
		}
	}
	for i := range sc.Objects {
		if _, err := write(quiet, i, 1); err != nil {
			return err
		}
	}
	name := "stalled"
	if sc.Gzip {
		name += " gzip"
	}
	_, err = s.phase(ctx, fmt.Sprintf("%s %d x3", name, sc.Watches), func(ctx context.Context, p *report.Phase) error {
		if err := sc.churn(ctx, s, p, func(n int) error {
			_, err := write(busy, n%sc.Objects, 1+n)
			return err
		}); err != nil {
			return err
		}
		for _, r := range stalled {
			p.Figures["told 410"] += told(r)
		}
		return nil
	})
	return err
}

// open opens watches of a path, whose clients take no more than 64 KiB.
func (sc *Stalled) open(ctx context.Context, s *session, path string) ([]*http.Response, error) {
	config, err := s.server.RESTConfig(agent)
	if err != nil {
		return nil, err
	}
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	var opened []*http.Response
	for range sc.Watches {
		transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{
			TLSClientConfig: tls.Clone(), ForceAttemptHTTP2: true, DisableCompression: true,
			HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
		})
		if err != nil {
			return opened, err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.URL+path, nil)
		if err != nil {
			return opened, err
		}
		if sc.Gzip {
			req.Header.Set("Accept-Encoding", "gzip")
		}
		resp, err := (&http.Client{Transport: transport}).Do(req)
		if err != nil {
			return opened, err
		}
		opened = append(opened, resp)
		if resp.StatusCode != http.StatusOK {
			return opened, fmt.Errorf("watch %s: %s", path, resp.Status)
		}
	}
	return opened, nil
}

// churn writes for as long as the scenario lasts, and notes what the server holds when a
// quarter of that has passed, and in the end.
func (sc *Stalled) churn(ctx context.Context, s *session, p *report.Phase, write func(n int) error) error {
	began, first := time.Now(), true
	for n := 0; time.Since(began) < sc.Lasts; n++ {
		if early := time.Since(began) > sc.Lasts/4; early && first {
			first = false
			if err := held(ctx, s, p, "at 1/4"); err != nil {
				return err
			}
		}
		due := began.Add(time.Duration(float64(n) / sc.Rate * float64(time.Second)))
		select {
		case <-time.After(time.Until(due)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := write(n); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
		p.Figures["writes"]++
	}
	return held(ctx, s, p, "at the end")
}

func held(ctx context.Context, s *session, p *report.Phase, when string) error {
	m, err := s.server.metrics(ctx, true)
	if err != nil {
		return err
	}
	if history, told := m.Purposes["history"]; told { // upstream's server says nothing of the kind
		p.Figures["history MB "+when] = float64(history) / 1e6
	}
	p.Figures["heap live MB "+when] = float64(m.Heap.Alloc) / 1e6
	p.Figures["RSS MB "+when] = float64(s.sampler.latestRSS()) / 1e6
	return nil
}

// told returns 1 if a watch ends with 410 for a client that reads it at last.
func told(r *http.Response) float64 {
	timer := time.AfterFunc(10*time.Second, func() { _ = r.Body.Close() })
	defer timer.Stop()
	plain, err := client.Decode(r, r.Body)
	if err != nil {
		return 0
	}
	body, _ := io.ReadAll(plain) // a watch that goes on is closed, and tells nothing of the kind
	if bytes.Contains(body, []byte(`"code":410`)) {
		return 1
	}
	return 0
}
