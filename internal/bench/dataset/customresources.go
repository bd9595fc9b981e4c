// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// CustomPlural is the custom resources' name in paths.
	CustomPlural = "trafficpolicies"
	// CustomVersion is the version that they are stored in.
	CustomVersion = "v1"

	customGroup    = "bench.weir-project.github.io"
	customVersion2 = "v1beta1"
)

// CustomResources is "d": custom resources of a definition with two served versions.
func CustomResources(at Place, objects int) Set {
	group := at.CustomGroup()
	return Set{
		Name: "d",
		Resources: []string{
			at.Collection("/apis/"+group+"/"+CustomVersion, CustomPlural),
			at.Collection("/apis/"+group+"/"+customVersion2, CustomPlural),
		},
		Objects: objects, namespaces: 20, place: at,
		prepare: func(ctx context.Context, client kubernetes.Interface) error {
			return defineCustomResource(ctx, client, at)
		},
		create: func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error {
			body, err := json.Marshal(newCustomResource(group, i))
			if err != nil {
				return err
			}
			return postJSON(ctx, client, "/apis/"+group+"/"+CustomVersion+"/namespaces/"+namespace+"/"+CustomPlural+"?fieldManager=weir-bench", body)
		},
	}
}

// postJSON creates an object of a type that the typed client does not know.
func postJSON(ctx context.Context, client kubernetes.Interface, uri string, body []byte) error {
	return RESTClient(client).Post().RequestURI(uri).SetHeader("Content-Type", runtime.ContentTypeJSON).SetHeader("Accept", runtime.ContentTypeJSON).Body(body).Do(ctx).Error()
}

// RESTClient is for paths that the typed client does not know.
func RESTClient(client kubernetes.Interface) rest.Interface { return client.Discovery().RESTClient() }

// defineCustomResource creates the definition and waits until both versions are served.
func defineCustomResource(ctx context.Context, client kubernetes.Interface, at Place) error {
	type object = map[string]any
	group := at.CustomGroup()
	schema := object{"openAPIV3Schema": object{"type": "object", "properties": object{
		"spec": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
	}}}
	body, err := json.Marshal(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": CustomPlural + "." + group, "labels": object{OwnerLabel: OwnerValue, RunLabel: at.Run}},
		"spec": object{
			"group": group, "scope": "Namespaced",
			"names": object{"plural": CustomPlural, "singular": "trafficpolicy", "kind": "TrafficPolicy", "listKind": "TrafficPolicyList"},
			"versions": []object{
				{"name": CustomVersion, "served": true, "storage": true, "schema": schema},
				{"name": customVersion2, "served": true, "storage": false, "schema": schema},
			},
		},
	})
	if err != nil {
		return err
	}
	// Not to be interrupted half way: what was created has to be known.
	err = postJSON(context.WithoutCancel(ctx), client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the custom resource definition: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("custom resources in group %s are not served after a minute", group))
	defer cancel()
	for _, version := range []string{CustomVersion, customVersion2} {
		path := "/apis/" + group + "/" + version + "/" + CustomPlural + "?limit=1"
		err := wait.PollUntilContextCancel(ctx, 200*time.Millisecond, true, func(ctx context.Context) (bool, error) {
			return RESTClient(client).Get().RequestURI(path).SetHeader("Accept", runtime.ContentTypeJSON).Do(ctx).Error() == nil, nil
		})
		if err != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// newCustomResource is a routing policy with a handful of rules.
func newCustomResource(group string, i int) map[string]any {
	type object = map[string]any
	id := hex.EncodeToString(randomBytes(uint64(i)+1<<43, 16))
	rules := make([]object, 4)
	for r := range rules {
		rules[r] = object{
			"match":   object{"path": fmt.Sprintf("/api/v%d/%s", r, id[:8]), "methods": []string{"GET", "POST"}},
			"backend": object{"service": fmt.Sprintf("backend-%d", (i+r)%500), "port": 8443, "weight": 100 - r},
			"retry":   object{"attempts": 3, "perTry": "250ms", "on": "connect-failure,reset"},
		}
	}
	return object{
		"apiVersion": group + "/" + CustomVersion, "kind": "TrafficPolicy",
		"metadata": object{
			"name":   fmt.Sprintf("policy-%05d-%s", i, id[:6]),
			"labels": object{"app": "weir-bench", "team": fmt.Sprintf("team-%02d", i%40)},
		},
		"spec": object{"hosts": []string{id[8:16] + ".shop.example.com"}, "digest": id, "rules": rules},
	}
}
