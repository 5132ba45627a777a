//! Clients of the real Keycloak whose tokens the broker trusts: its realm master.

use crate::cluster::var;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub const SECRET: &str = "oauth-client-secret";

pub fn token_url() -> String {
    format!("{}/realms/master/protocol/openid-connect/token", var("LOCKSTEP_TEST_KEYCLOAK"))
}

/// Makes a client that may get tokens for itself, each good for this long.
pub fn make_client(id: &str, life_s: u32) {
    let base = var("LOCKSTEP_TEST_KEYCLOAK");
    let client = json!({
        "clientId": id,
        "secret": SECRET,
        "publicClient": false,
        "serviceAccountsEnabled": true,
        "standardFlowEnabled": false,
        "directAccessGrantsEnabled": false,
        "attributes": { "access.token.lifespan": life_s.to_string() },
    });
    Runtime::new().unwrap().block_on(async {
        let http = Client::new();
        let login =
            [("grant_type", "password"), ("client_id", "admin-cli"), ("username", "admin"), ("password", "admin")];
        let answer = http.post(token_url()).form(&login).send().await.unwrap();
        let token: Value = answer.error_for_status().unwrap().json().await.unwrap();
        let url = format!("{base}/admin/realms/master/clients");
        let made =
            http.post(url).bearer_auth(token["access_token"].as_str().unwrap()).json(&client).send().await.unwrap();
        assert_eq!(made.status().as_u16(), 201, "making client {id}");
    });
}
