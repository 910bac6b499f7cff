package tollgate;

import com.nimbusds.jose.jwk.JWK;
import com.nimbusds.jose.jwk.JWKSelector;
import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.source.JWKSource;
import com.nimbusds.jose.proc.SecurityContext;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.interfaces.RSAPublicKey;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CopyOnWriteArrayList;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.context.annotation.Bean;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.jwt.JwtEncoder;
import org.springframework.security.oauth2.jwt.NimbusJwtEncoder;
import org.springframework.security.oauth2.server.authorization.client.InMemoryRegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.settings.OAuth2TokenFormat;
import org.springframework.security.oauth2.server.authorization.settings.TokenSettings;
import org.springframework.security.oauth2.server.authorization.token.JwtEncodingContext;
import org.springframework.security.oauth2.server.authorization.token.OAuth2TokenClaimsContext;
import org.springframework.security.oauth2.server.authorization.token.OAuth2TokenCustomizer;

/**
 * Spring Authorization Server for tests. It prints {"issuer": URL}. The line "rotate" on its standard input makes
 * another key, which signs from then on, and leaves those before in the JWKS; it answers with a line. It ends with
 * its standard input.
 *
 * <p>Clients: web, whose tokens are JWTs; opaque, whose tokens are opaque; tollgate, which asks about tokens. The
 * secret of each is its id and "-secret".
 */
@SpringBootApplication
public class AuthorizationServer {
  private static final String AUDIENCE = "https://api.example.com";
  private static final List<JWK> KEYS = new CopyOnWriteArrayList<>(List.of(newKey()));

  public static void main(String[] args) throws Exception {
    var application = new SpringApplication(AuthorizationServer.class);
    application.setDefaultProperties(
        Map.of("server.port", "0", "server.address", "127.0.0.1", "spring.main.banner-mode", "off", "logging.level.root", "off"));
    var context = application.run(args);
    System.out.println("{\"issuer\":\"http://127.0.0.1:" + context.getEnvironment().getProperty("local.server.port") + "\"}");
    var input = new BufferedReader(new InputStreamReader(System.in));
    for (var line = input.readLine(); line != null; line = input.readLine()) {
      KEYS.add(0, newKey());
      System.out.println("rotated");
    }
    System.exit(0);
  }

  private static JWK newKey() {
    try {
      var generator = KeyPairGenerator.getInstance("RSA");
      generator.initialize(2048);
      KeyPair pair = generator.generateKeyPair();
      return new RSAKey.Builder((RSAPublicKey) pair.getPublic()).privateKey(pair.getPrivate()).keyID(UUID.randomUUID().toString()).build();
    } catch (java.security.NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  @Bean
  JWKSource<SecurityContext> keys() {
    return (JWKSelector selector, SecurityContext context) -> selector.select(new JWKSet(new ArrayList<>(KEYS)));
  }

  @Bean
  JwtEncoder encoder(JWKSource<SecurityContext> keys) {
    var encoder = new NimbusJwtEncoder(keys);
    encoder.setJwkSelector(all -> all.get(0));
    return encoder;
  }

  @Bean
  RegisteredClientRepository clients() {
    return new InMemoryRegisteredClientRepository(
        client("web", OAuth2TokenFormat.SELF_CONTAINED), client("opaque", OAuth2TokenFormat.REFERENCE),
        client("tollgate", OAuth2TokenFormat.REFERENCE));
  }

  private static RegisteredClient client(String id, OAuth2TokenFormat format) {
    return RegisteredClient.withId(id)
        .clientId(id)
        .clientSecret("{noop}" + id + "-secret")
        .clientAuthenticationMethod(ClientAuthenticationMethod.CLIENT_SECRET_BASIC)
        .authorizationGrantType(AuthorizationGrantType.CLIENT_CREDENTIALS)
        .scope("text")
        .scope("image")
        .tokenSettings(TokenSettings.builder().accessTokenFormat(format).accessTokenTimeToLive(Duration.ofMinutes(5)).build())
        .build();
  }

  @Bean
  OAuth2TokenCustomizer<JwtEncodingContext> audienceOfJwts() {
    return context -> context.getClaims().audience(List.of(AUDIENCE));
  }

  @Bean
  OAuth2TokenCustomizer<OAuth2TokenClaimsContext> audienceOfOpaqueTokens() {
    return context -> context.getClaims().audience(List.of(AUDIENCE));
  }
}
