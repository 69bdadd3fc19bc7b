"""Deploy the bots to a Medplum server: what they declare against what is there.

    MEDPLUM_BASE_URL=... MEDPLUM_CLIENT_ID=... MEDPLUM_CLIENT_SECRET=... python deploy_bots.py [--dry-run]

Exit codes: 0 the server is as declared; 1 something failed, or was left half done; 2 nothing was tried, because of the
options, the settings or the checks; 3 the server differs (--drift); 4 another deployment is under way.
"""

from bot_layer.cli.deploy import main

if __name__ == "__main__":
    main()
