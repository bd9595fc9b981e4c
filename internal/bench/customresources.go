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
func customResourcesData(objects int) Dataset {
	return Dataset{
		Name: "d",
		Resources: []string{
			"/apis/" + customGroup + "/" + customVersion + "/" + customPlural,
			"/apis/" + customGroup + "/" + customVersion2 + "/" + customPlural,
		},
		Objects: objects, namespaces: 20,
		prepare: defineCustomResource,
		create: func(ctx context.Context, client kubernetes.Interface, namespace string, i int) error {
			body, err := json.Marshal(newCustomResource(i))
			if err != nil {
				return err
			}
			return postJSON(ctx, client, "/apis/"+customGroup+"/"+customVersion+"/namespaces/"+namespace+"/"+customPlural+"?fieldManager=weir-bench", body)
		},
	}
}

// postJSON creates an object of a type that the typed client does not know.
func postJSON(ctx context.Context, client kubernetes.Interface, uri string, body []byte) error {
	return restClient(client).Post().RequestURI(uri).SetHeader("Content-Type", jsonType).SetHeader("Accept", jsonType).Body(body).Do(ctx).Error()
}

func restClient(client kubernetes.Interface) rest.Interface { return client.Discovery().RESTClient() }

// defineCustomResource creates the definition and waits until both versions are served.
func defineCustomResource(ctx context.Context, client kubernetes.Interface) error {
	type object = map[string]any
	schema := object{"openAPIV3Schema": object{"type": "object", "properties": object{
		"spec": object{"type": "object", "x-kubernetes-preserve-unknown-fields": true},
	}}}
	body, err := json.Marshal(object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": customPlural + "." + customGroup, "labels": object{ownerLabel: ownerValue}},
		"spec": object{
			"group": customGroup, "scope": "Namespaced",
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
	err = postJSON(ctx, client, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body)
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create the custom resource definition: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("custom resources in group %s are not served after a minute", customGroup))
	defer cancel()
	for _, version := range []string{customVersion, customVersion2} {
		for {
			err := restClient(client).Get().RequestURI("/apis/"+customGroup+"/"+version+"/"+customPlural+"?limit=1").SetHeader("Accept", jsonType).Do(ctx).Error()
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
func newCustomResource(i int) map[string]any {
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
		"apiVersion": customGroup + "/" + customVersion, "kind": "TrafficPolicy",
		"metadata": object{
			"name":   fmt.Sprintf("policy-%05d-%s", i, id[:6]),
			"labels": object{"app": "weir-bench", "team": fmt.Sprintf("team-%02d", i%40)},
		},
		"spec": object{"hosts": []string{id[8:16] + ".shop.example.com"}, "digest": id, "rules": rules},
	}
}
