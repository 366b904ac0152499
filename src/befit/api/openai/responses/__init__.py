"""`/v1/responses`: OpenAI's Responses protocol over the chat template, with the conversation kept in memory."""
