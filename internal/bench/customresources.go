// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	customGroup    = "bench.weir-project.github.io"
	customPlural   = "trafficpolicies"
	customVersion  = "v1"
	customVersion2 = "v1beta1"
)

// customResourcesData is "d": custom resources of a definition with two served versions.
func customResourcesData(at place, objects int) Dataset {
	group := at.customGroup()
	return Dataset{
		Name: "d",
		Resources: []string{
			at.collection("/apis/"+group+"/"+customVersion, customPlural),
			at.collection("/apis/"+group+"/"+customVersion2, customPlural),
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
			return postJSON(ctx, client, "/apis/"+group+"/"+customVersion+"/namespaces/"+namespace+"/"+customPlural+"?fieldManager=weir-bench", body)
		},
	}
}

// postJSON creates an object of a type that the typed client does not know.
func postJSON(ctx context.Context, client kubernetes.Interface, uri string, body []byte) error {
	return restClient(client).Post().RequestURI(uri).SetHeader("Content-Type", jsonType).SetHeader("Accept", jsonType).Body(body).Do(ctx).Error()
}

func restClient(client kubernetes.Interface) rest.Interface { return client.Discovery().RESTClient() }

// defineCustomResource creates the definition and waits until both versions are served.
func defineCustomResource(ctx context.Context, client kubernetes.Interface, at place) error {
	type object = map[string]any
	group := at.customGroup()
	schema := object{"openAPIV3Schema": object{"type": "object", "properties": object{
		"spec": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
	}}}
	body, err := json.Marshal(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": customPlural + "." + group, "labels": object{ownerLabel: ownerValue, runLabel: at.run}},
		"spec": object{
			"group": group, "scope": "Namespaced",
			"names": object{"plural": customPlural, "singular": "trafficpolicy", "kind": "TrafficPolicy", "listKind": "TrafficPolicyList"},
			"versions": []object{
				{"name": customVersion, "served": true, "storage": true, "schema": schema},
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
	for _, version := range []string{customVersion, customVersion2} {
		for {
			err := restClient(client).Get().RequestURI("/apis/"+group+"/"+version+"/"+customPlural+"?limit=1").SetHeader("Accept", jsonType).Do(ctx).Error()
			if err == nil {
				break
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
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
		"apiVersion": group + "/" + customVersion, "kind": "TrafficPolicy",
		"metadata": object{
			"name":   fmt.Sprintf("policy-%05d-%s", i, id[:6]),
			"labels": object{"app": "weir-bench", "team": fmt.Sprintf("team-%02d", i%40)},
		},
		"spec": object{"hosts": []string{id[8:16] + ".shop.example.com"}, "digest": id, "rules": rules},
	}
}
