// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
)

// slim keeps the server's own informers from holding the cluster's largest resources
// a second time, decoded. The informers' users within the API server are the token
// authenticators (Secrets, Pods), the node authorizer, NodeRestriction, PodSecurity
// and quota (Pods); none of them looks at what is left out here.
//
// It has to be called before the informers are started.
func slim(factory informers.SharedInformerFactory) error {
	core := factory.Core().V1()
	for name, informer := range map[string]cache.SharedIndexInformer{
		"secrets": core.Secrets().Informer(),
		"pods":    core.Pods().Informer(),
	} {
		if err := informer.SetTransform(slimObject); err != nil {
			return fmt.Errorf("setting the transform of the API server's own informer of %s: %w", name, err)
		}
	}
	return nil
}

// slimObject drops, from an object that is the informer's own, who manages which
// field, and the payload of Secrets that no authenticator reads.
func slimObject(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil {
		accessor.SetManagedFields(nil)
	}
	if secret, ok := obj.(*corev1.Secret); ok {
		slimSecret(secret)
	}
	return obj, nil
}

func slimSecret(secret *corev1.Secret) {
	switch secret.Type {
	case corev1.SecretTypeServiceAccountToken, bootstrapapi.SecretTypeBootstrapToken:
		return
	}
	// The authenticator of legacy tokens compares this key whatever the type is.
	token, ok := secret.Data[corev1.ServiceAccountTokenKey]
	secret.Data, secret.StringData = nil, nil
	if ok {
		secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: token}
	}
}
