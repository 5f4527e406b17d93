"""From a folder of Hugging Face's to a policy and a value model, tried before they are used."""
