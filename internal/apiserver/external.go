// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"fmt"
	"strings"
	"time"

	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/klog/v2"

	"github.com/weir-project/weir/internal/etcd"
)

// etcdTimeout is how long a start waits for an etcd that does not answer, so that both
// may be started at the same time. Upstream's own client gives up after 20 seconds.
const etcdTimeout = 10 * time.Second

// checkEtcd asks every etcd cluster that the flags name for its version before
// anything is assembled. It fails if one does not answer, and warns of members that
// are too old for progress requests: upstream's storage/feature finds those too and
// then sends consistent reads to etcd.
func (o *Options) checkEtcd(ctx context.Context) error {
	if o.EgressSelector.ConfigFile != "" {
		return nil // etcd may be reachable through the egress proxy only
	}
	t := o.Etcd.StorageConfig.Transport
	if len(t.ServerList) == 0 {
		return nil // upstream's validation says so
	}
	clusters := [][]string{t.ServerList}
	overrides, err := genericoptions.ParseEtcdServersOverrides(o.Etcd.EtcdServersOverrides)
	if err != nil {
		return nil // the same
	}
	seen := map[string]bool{strings.Join(t.ServerList, ";"): true}
	for _, override := range overrides {
		if key := strings.Join(override.Servers, ";"); !seen[key] {
			seen[key] = true
			clusters = append(clusters, override.Servers)
		}
	}

	patience, cancel := context.WithTimeout(ctx, etcdTimeout)
	defer cancel()
	var old []string
	for _, endpoints := range clusters {
		members, err := etcd.External{
			Endpoints: endpoints,
			CertFile:  t.CertFile, KeyFile: t.KeyFile, CAFile: t.TrustedCAFile,
		}.Check(patience)
		if ctx.Err() != nil {
			return ctx.Err() // told to stop: what etcd would have said is no matter
		}
		if err != nil {
			return err
		}
		for _, m := range members {
			switch {
			case m.Err != nil:
				klog.Warningf("etcd at %s does not answer: %v", m.Endpoint, m.Err)
			case m.Version == "":
				klog.Warningf("etcd at %s does not tell its version", m.Endpoint)
			case !m.AnswersProgressRequests():
				old = append(old, fmt.Sprintf("%s (%s)", m.Endpoint, m.Version))
			}
		}
	}
	if len(old) > 0 {
		klog.Warningf("etcd is older than %s: %s. Consistent reads go to etcd instead of the watch cache until it is upgraded.",
			etcd.Floors, strings.Join(old, ", "))
	}
	return nil
}
